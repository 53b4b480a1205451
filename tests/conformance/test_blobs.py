"""The folder of blobs passes the public suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadworthy.store.blobs import FolderBlobs
from roadworthy.testing.blobs import CHECKS, BlobCase, Check, check_name


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
def test_folder(check: Check, tmp_path: Path) -> None:
    """One check of the suite."""
    check(BlobCase(FolderBlobs, f"folder:{tmp_path / 'blobs'}"), tmp_path)
