"""The exact reader of JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.codecs.reading.strict_json import read_document
from roadworthy.foundation.errors import MalformedBody

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_every_json_value_comes_back(value: Any, escaped: bool) -> None:
    """Any JSON value is read exactly, including integers of any size."""
    assert read_document(json.dumps(value, ensure_ascii=escaped).encode()) == (value, 0)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_counted(text: str) -> None:
    """They are read, so that the error can name the column, and counted, so that no such number is accepted."""
    assert read_document(f"[{text}, 1.5]".encode())[1] == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty-body"),
        (b"{", "malformed-json"),
        (b'{"a":1,"a":1}', "duplicate-key"),
        (b'[{"deep":[{"a":1,"b":2,"a":3}]}]', "duplicate-key"),
        (b"[" * 101 + b"]" * 101, "too-deep"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "too-deep"),
        (b"[" * 100_000, "too-deep"),
        (b"1" * 4_301, "integer-too-long"),
        (b'"\\ud800"', "invalid-text"),
        (b'{"\\u0000":1}', "invalid-text"),
        (b'"\xff"', "invalid-utf-8"),
        (b"\xef\xbb\xbf1", "invalid-utf-8"),
    ],
)
def test_what_is_refused(body: bytes, code: str) -> None:
    """Each fault has its code, and no message repeats the caller's values."""
    with pytest.raises(MalformedBody) as caught:
        read_document(body)
    assert caught.value.code == code
    assert len(caught.value.message) < 200


def test_the_allowed_depth_is_read() -> None:
    """100 levels are read, brackets inside of text do not count."""
    value, _ = read_document(b"[" * 100 + b"1" + b"]" * 100)
    assert value
    assert read_document(json.dumps("[" * 500).encode())[0] == "[" * 500
