"""Names, digests and version references: which are accepted and which are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.foundation.errors import InvalidRequest
from roadworthy.foundation.references import VersionReference, check_digest, check_name

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9])?", fullmatch=True).filter(
    lambda name: not name.startswith(("con", "prn", "aux", "nul", "com", "lpt"))
)


@pytest.mark.parametrize("name", ["a", "flights", "a-b_c.d", "0", "x" * 64])
def test_good_names_pass(name: str) -> None:
    """What the allow-list names is returned unchanged."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A",
        "../x",
        "a/b",
        "a\\b",
        "a..b",
        "a b",
        "a#b",
        "a%2e",
        "-a",
        "a-",
        ".a",
        "x" * 65,
        "con",
        "nul.txt",
        "a\0",
        "ä",
        "a\n",
    ],
)
def test_bad_names_are_refused(name: str) -> None:
    """Traversal, reserved names, look-alikes, control characters and overlong names are refused by one code."""
    with pytest.raises(InvalidRequest) as raised:
        check_name(name, "endpoint name")
    assert raised.value.code == "invalid-name"
    assert raised.value.facts == {"kind": "endpoint name"}
    assert name == "" or len(name) < 3 or name not in raised.value.message


@given(NAMES, st.integers(1, 999_999_999))
def test_references_read_what_they_print(name: str, version: int) -> None:
    """parse is the inverse of str."""
    reference = VersionReference(name, version)
    assert VersionReference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text", ["flights", "flights:", "flights:0", "flights:-1", "flights:1.0", "flights:٣", "f:9999999999", ":1", "A:1"]
)
def test_bad_references_are_refused(text: str) -> None:
    """Anything but a name, a colon and a number from 1 on is refused."""
    with pytest.raises(InvalidRequest):
        VersionReference.parse(text)


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "A" * 64, "sha256:" + "0" * 63, "md5:" + "0" * 64, "sha256:" + "0" * 64 + "\n"]
)
def test_bad_digests_are_refused(text: str) -> None:
    """Only sha256: with 64 lower-case hex digits is a digest."""
    with pytest.raises(InvalidRequest, match="digest"):
        check_digest(text)
    assert check_digest("sha256:" + "0" * 64)
