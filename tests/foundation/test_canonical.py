"""Canonical JSON: equal documents give equal bytes, and the bytes still say what the document said."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.foundation.canonical import canonical_json, digest_bytes, digest_file

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def shuffled(document: Any) -> Any:
    """The same document with the keys of every object in another order."""
    if isinstance(document, dict):
        return {key: shuffled(document[key]) for key in reversed(document)}
    return [shuffled(item) for item in document] if isinstance(document, list) else document


@given(DOCUMENTS)
def test_equal_documents_give_equal_bytes(document: Any) -> None:
    """Key order does not matter, and reading the bytes gives the document back."""
    data = canonical_json(document)
    assert canonical_json(shuffled(document)) == data
    assert json.loads(data) == document


def test_keys_are_sorted_by_utf_16_code_units() -> None:
    """RFC 8785's order: a character beyond the basic plane sorts before U+FB33, by its surrogates."""
    assert canonical_json({"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3, "\r": 4, "1": 5}) == (
        '{"\\r":4,"1":5,"\u20ac":3,"\U0001f600":2,"\ufb33":1}'.encode()
    )


@pytest.mark.parametrize("value", [1.0, float("nan"), 2**53, {1: "a"}, b"x", {"a": [object()]}, {1, 2}])
def test_what_has_no_exact_form_is_refused(value: object) -> None:
    """Floats, large integers, other keys than text and foreign objects raise TypeError."""
    with pytest.raises(TypeError):
        canonical_json(value)


def test_digests_of_bytes_and_of_files_agree(tmp_path: Path) -> None:
    """A file's digest is that of its bytes, also over several blocks."""
    data = bytes(range(256)) * 10_000
    (tmp_path / "f").write_bytes(data)
    assert digest_file(tmp_path / "f") == digest_bytes(data) == f"sha256:{hashlib.sha256(data).hexdigest()}"
