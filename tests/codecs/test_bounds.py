"""Counting in bodies: characters outside of strings, and depth; and bounds that no valid request reaches."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roadworthy.codecs.answers import Answers
from roadworthy.codecs.predict_csv import PredictCsv
from roadworthy.codecs.predict_json import PredictJson
from roadworthy.codecs.reading import bounds
from roadworthy.codecs.reading.bounds import Bounds, deepest, outside, tally
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import BodyTooLarge, InvalidRequest
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab"\\[]{},:é\n', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\[{:', max_size=3), inner, max_size=4),
    max_leaves=20,
)
FIELDS = (Field("a", DType.FLOAT64), Field("s", DType.STRING, nullable=True))
KINDS = (
    FIELDS,
    (Field("a", DType.INT8),),
    (Field("v", DType.FLOAT64, (2, 3)),),
    (Field("v", DType.FLOAT64, (-1,)), Field("b", DType.BOOL)),
    (Field("j", DType.JSON),),
    (Field("j", DType.JSON, nullable=True), Field("t", DType.TIMESTAMP)),
)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every body is counted, and in small chunks."""
    monkeypatch.setattr(bounds, "EXACT_BYTES", 0)
    monkeypatch.setattr(bounds, "_SMALL_BYTES", 0)
    monkeypatch.setattr(bounds, "_CHUNK_BYTES", 7)
    monkeypatch.setattr(bounds, "_FEW", 2)


def depth(value: Any) -> int:
    """The depth of lists and objects."""
    if isinstance(value, list | dict):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


def bare(text: str) -> str:
    """The bytes outside of JSON's strings, found character by character."""
    found, inside, escaped = [], False, False
    for character in text:
        if inside:
            escaped, inside = character == "\\" and not escaped, escaped or character != '"'
        elif character == '"':
            inside = True
        else:
            found.append(character)
    return "".join(found)


@settings(max_examples=100, deadline=None)
@given(VALUES, st.booleans())
@example('\\\\"[', True)
def test_g6_what_stands_outside_of_strings(value: Any, ascii_only: bool) -> None:
    """The same as reading character by character, whatever the size of a chunk."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        for size, few in ((1, 0), (7, 0), (1 << 16, 0), (1 << 16, 1_000)):
            patch.setattr(bounds, "_CHUNK_BYTES", size)
            patch.setattr(bounds, "_FEW", few)
            patch.setattr(bounds, "_SMALL_BYTES", 0)
            plain = outside(text.encode())
            assert plain.decode() == bare(text)
            assert tally(plain, b"[{,") == [bare(text).count(character) for character in "[{,"]
            assert not plain or deepest(plain) == depth(value)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text('a",\n\r', max_size=6), min_size=1, max_size=9))
def test_g6_quotes_in_csv_have_no_escapes(cells: list[str]) -> None:
    """A doubled quote is a quote, and a backslash has no meaning."""
    line = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\\,"
    assert outside(line.encode(), escapes=False) == b"," * (len(cells) - 1) + b"\\,"


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 1_001, 1_002, 70_000])
def test_g6_rare_and_frequent_characters_are_counted_alike(count: int) -> None:
    """In bodies of any length: few matches are searched one by one, many by comparing whole arrays."""
    for size in (0, 5_000, 200_000):
        body = b"[" * count + b"1" * size + b"," * min(count, 5)
        assert tally(body, b"[,:") == [count, min(count, 5), 0]


def rows_of(fields: tuple[Field, ...]) -> st.SearchStrategy[Any]:
    """Rows that fit, and some that do not."""

    def value(field: Field) -> st.SearchStrategy[Any]:
        kinds: dict[DType, st.SearchStrategy[Any]] = {
            DType.FLOAT64: st.integers(-9, 9),
            DType.INT8: st.integers(-9, 9),
            DType.BOOL: st.booleans(),
            DType.STRING: st.text('[{,:"\\', max_size=5),
            DType.JSON: VALUES,
            DType.TIMESTAMP: st.just("2024-03-31T02:00:00"),
        }
        inner = kinds[field.dtype] | st.none() if field.nullable else kinds[field.dtype]
        for size in reversed(field.shape):
            inner = st.lists(inner, min_size=max(size, 1), max_size=max(size, 1))
        return inner

    values = [value(field) for field in fields]
    as_list = st.tuples(*values).map(list)
    as_object = st.fixed_dictionaries({field.name: each for field, each in zip(fields, values, strict=True)})
    alone = [st.lists(values[0], max_size=8)] if len(fields) == 1 else []
    return st.one_of(st.lists(as_list, max_size=8), st.lists(as_object, max_size=8), *alone)


def outcome(protocol: Any, body: bytes) -> Any:
    """The rows, or the error's code."""
    try:
        batch = protocol.decode({b"content-type": b"application/json"}, body).batch
    except InvalidRequest as error:
        return error.code
    return [(block.values.tolist(), None if block.mask is None else block.mask.tolist()) for block in batch.blocks]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_g6_no_legal_request_is_too_much(data: st.DataObject) -> None:
    """Counted or not, a body gives the same rows or the same refusal: a valid request never exceeds the bounds."""
    fields = data.draw(st.sampled_from(KINDS))
    body = json.dumps({"instances": data.draw(rows_of(fields))}, ensure_ascii=data.draw(st.booleans())).encode()
    signature = Signature(fields, FIELDS)
    policy = Policy(max_rows=data.draw(st.integers(1, 8)), extra=data.draw(st.sampled_from(["refuse", "ignore"])))
    plain = outcome(PredictJson(signature, policy), body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "EXACT_BYTES", 0)
        patch.setattr(bounds, "SPARE_NAMES", 0)
        patch.setattr(bounds, "_SPARE_VALUES", {"refuse": 0, "ignore": 0})
        counted = outcome(PredictJson(signature, policy), body)
    assert counted == plain or (isinstance(plain, str) and counted in ("too-many-rows", "too-many-values"))


@pytest.mark.parametrize("extra", ["refuse", "ignore"])
def test_g6_unknown_names_are_reported_up_to_a_thousand(counted: None, extra: str) -> None:
    """A table of the wrong model is refused by name; a million names are refused by their number."""
    policy = Policy(extra=extra)
    json_protocol = PredictJson(Signature(FIELDS, FIELDS), policy)
    for count, refusal in ((900, "unknown-columns"), (20_000, "too-many-values")):
        row = {"a": 1, "s": "x", **{f"u{number}": 1 for number in range(count)}}
        found = outcome(json_protocol, json.dumps({"instances": [row]}).encode())
        assert found == refusal if count > 1_000 or extra == "refuse" else not isinstance(found, str)


def test_g6_csv_is_counted(counted: None) -> None:
    """Rows, cells and names are counted; commas and lines inside of quotes are not."""
    protocol = PredictCsv(Signature(FIELDS, FIELDS), Policy(max_rows=3), Answers(FIELDS))
    headers = {b"content-type": b"text/csv"}
    text = '"' + "\n,\r\n" * 5_000 + '"'
    assert protocol.decode(headers, f"a,s\n1,{text}\n2,x\n3,y\n".encode()).batch.rows == 3
    for body, code in (
        (b"a,s\n" + b"1,x\n" * 4, "too-many-rows"),
        (b"a,s\n" + b"\n" * 400, "too-many-rows"),
        (b"a,s\n1," + b"," * 9_000 + b"\n", "too-many-values"),
        (b"," * 9_000, "too-many-values"),
    ):
        with pytest.raises(BodyTooLarge) as caught:
            protocol.decode(headers, body)
        assert caught.value.code == code


def test_g6_bounds_follow_from_signature_and_rows() -> None:
    """Twice the rows or the columns, twice the values."""
    one, wide, long = (
        Bounds([Field(f"c{n}", DType.FLOAT64) for n in range(columns)], Policy(max_rows=rows))
        for columns, rows in ((100, 100), (200, 100), (100, 200))
    )
    assert wide.values - one.values == 100 * 100
    assert long.values == 2 * one.values
