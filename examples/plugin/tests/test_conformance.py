"""The conformance suites of `roadworthy.testing` on what this distribution adds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from roadworthy_example import Linear
from roadworthy_example.blobs import STORES
from roadworthy_example.codec import JsonLines, write_lines
from roadworthy_example.framework import FRAMEWORK

from roadworthy.foundation.plugins import allow
from roadworthy.testing import blobs, codecs, frameworks

allow(["roadworthy-example"])

MODEL = Linear((1.0, -2.0), 0.5)
ROWS = np.array([[1.0, 2.0], [3.0, 4.0], [-1.0, 0.0], [0.25, 8.0]])


@pytest.mark.parametrize("check", frameworks.CHECKS, ids=frameworks.check_name)
def test_framework(check: frameworks.Check, tmp_path: Path) -> None:
    """The framework does what every framework must do."""
    check(frameworks.case_of(FRAMEWORK, MODEL, ROWS), tmp_path)


@pytest.mark.parametrize("check", codecs.CHECKS, ids=codecs.check_name)
def test_codec(check: codecs.Check) -> None:
    """The codec does what every codec must do."""
    check(codecs.CodecCase(JsonLines, write_lines))


@pytest.mark.parametrize("check", blobs.CHECKS, ids=blobs.check_name)
def test_blobs(check: blobs.Check, tmp_path: Path) -> None:
    """The store does what every blob store must do."""
    check(blobs.BlobCase(STORES, f"sqlite-blobs:{tmp_path / 'blobs.db'}"), tmp_path)
