"""The file of asserted types, which `make types` checks, leaves out no public name."""

from __future__ import annotations

import re
from pathlib import Path

import roadworthy as rw


def test_every_public_name_has_its_type_asserted() -> None:
    """Each name is used in `public_api.py`."""
    used = re.findall(r"\brw\.(\w+)", Path(__file__).with_name("public_api.py").read_text())
    assert set(rw.__all__) - set(used) == set()
