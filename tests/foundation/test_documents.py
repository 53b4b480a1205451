"""One validator for every document: types, bounds, names and nesting, with all faults at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.foundation.documents import (
    INVALID,
    Bounds,
    Fault,
    Given,
    Key,
    OneOf,
    Reader,
    invalid_request,
    listed,
    plain,
)

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def even(number: int) -> int:
    """A check of the finished value."""
    if number % 2:
        raise ValueError("must be even")
    return number


class Step(TypedDict, total=False):
    """A TypedDict: what is not given is left out."""

    share: Annotated[float, Bounds(0.01, 100)]
    action: Annotated[str, OneOf(("hold", "alert"))]


class Group(msgspec.Struct, frozen=True):
    """A struct: one field is required."""

    name: Annotated[str, OneOf(("one", "two"))]
    pairs: Annotated[int, Bounds(0), even] = 0


@dataclass(frozen=True)
class Entry:
    """A dataclass comes as an object."""

    size_bytes: Annotated[int, Key("size"), Bounds(0)]


@dataclass(frozen=True)
class Whole:
    """Every kind of field."""

    flag: bool = False
    text: str = ""
    number: float | None = 1.0
    level: Literal["low", "high"] = "low"
    steps: Annotated[tuple[Step, ...], Bounds(1, 2)] = ()
    group: Group | None = None
    entries: tuple[Entry, ...] = ()
    options: Mapping[str, Any] | None = None
    folder: Annotated[Path, Given(Path)] | None = None


def faults(given: object, kind: type[Any] = Whole, *, texts: bool = False) -> dict[str, str]:
    """Every fault by its path."""
    reader = Reader(texts=texts)
    reader.table(kind, given)
    return {fault.path: fault.problem for fault in reader.faults}


def test_valid_values_come_by_field_name() -> None:
    """Only those that were given; nested dataclasses are objects, other nested declarations are mappings."""
    reader = Reader()
    found = reader.table(
        Whole,
        {
            "flag": True,
            "number": 3,
            "level": "high",
            "steps": [{"share": 5, "action": "hold"}, {}],
            "group": {"name": "one", "pairs": 4},
            "entries": [{"size": 7}],
            "options": {"a": [1]},
            "folder": "/tmp",
        },
    )
    assert reader.faults == []
    assert found == {
        "flag": True,
        "number": 3.0,
        "level": "high",
        "steps": ({"share": 5.0, "action": "hold"}, {}),
        "group": {"name": "one", "pairs": 4},
        "entries": (Entry(7),),
        "options": {"a": [1]},
        "folder": Path("/tmp"),
    }
    assert Reader().table(Whole, {"number": None}) == {"number": None}


def test_every_fault_is_found_at_once() -> None:
    """Each with its path, what was expected and what came."""
    assert faults(
        {
            "flg": True,
            "unheard": 1,
            "flag": "yes",
            "text": 7,
            "number": True,
            "level": "hihg",
            "steps": [{"share": 150}, {"action": "sometimes"}],
            "group": {"pairs": 3},
            "entries": [{"size": -1}, {"size_bytes": 1}, 7],
            "options": [],
        }
    ) == {
        "flg": "unknown key; did you mean flag?",
        "unheard": "unknown key; known are flag, text, number, level, steps, group, entries, options, folder",
        "flag": "expected true or false, got text ('yes')",
        "text": "expected text, got 7",
        "number": "expected a number, got true",
        "level": "expected low or high, got text ('hihg'); did you mean high?",
        "steps[0].share": "must be from 0.01 to 100, got 150.0",
        "steps[1].action": "expected hold or alert, got text ('sometimes')",
        "group.name": "is missing; expected one or two",
        "group.pairs": "must be even",
        "entries[0].size": "must be at least 0, got -1",
        "entries[1].size_bytes": "unknown key; known are size",
        "entries[1].size": "is missing",
        "entries[2]": "expected an object with some of size, got 7",
        "options": "expected an object, got a list",
    }


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "must have from 1 to 2 items, got 0"),
        ([{}] * 3, "must have from 1 to 2 items, got 3"),
        ("{}", "expected a list, got text ('{}')"),
        (None, "expected a list, got null"),
    ],
)
def test_lists_have_bounds(value: object, problem: str) -> None:
    """Their items are not read when there are too many."""
    assert faults({"steps": value}) == {"steps": problem}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (1.0, "expected a whole number, got 1.0"),
        (True, "expected a whole number, got true"),
        ("7", "expected a whole number, got text ('7')"),
        (10**400, "must be from 1 to 5, got a larger number"),
        (None, "expected a whole number, got null"),
        ([1], "expected a whole number, got a list"),
        (object, "expected a whole number, got type"),
    ],
)
def test_a_whole_number(value: object, problem: str) -> None:
    """No float, no text, no truth value."""
    reader = Reader()
    assert reader.value(Annotated[int, Bounds(1, 5)], value, "n") is INVALID
    assert reader.faults == [Fault("n", problem)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, 5.1])
def test_numbers_outside_their_bounds(value: float) -> None:
    """Neither is a number that no float can hold."""
    assert Reader().value(Annotated[float, Bounds(0, 5)], value, "n") is INVALID


def test_texts_are_converted_and_not_repeated() -> None:
    """As from the environment; a value in a fault could be a secret."""
    reader = Reader(texts=True)
    assert reader.table(Whole, {"flag": "Yes", "number": " 2.5 ", "text": " a "}) == {
        "flag": True,
        "number": 2.5,
        "text": "a",
    }
    assert reader.value(tuple[int, ...], "1, 2", "n") == (1, 2)
    assert reader.value(Annotated[int, Bounds(1, 5)], "5", "n") == 5
    assert reader.faults == []
    found = faults({"flag": "hunter2", "number": "hunter2", "level": "hunter2", "text": " "}, texts=True)
    assert found == {
        "flag": "expected true or false",
        "number": "expected a number",
        "level": "expected low or high",
        "text": "must not be empty",
    }


def test_plain_values_are_read_back() -> None:
    """By the document's keys, at any depth."""
    whole = Whole(flag=True, entries=(Entry(7),), options={"a": [1]})
    document = plain(whole)
    assert document["entries"] == [{"size": 7}]
    assert Whole(**Reader().table(Whole, document)) == whole


def test_an_error_lists_some_faults_in_words_and_all_as_facts() -> None:
    """A thousand faults make no message of a thousand lines."""
    found = [Fault(f"a[{number}]", "is missing", ("x",)) for number in range(10)]
    assert listed(found[:1]) == "a[0]: is missing"
    assert listed([Fault("", "it cannot be read")]) == "it cannot be read"
    error = invalid_request("the plan is not valid", found, code="invalid-plan", hint="read the page")
    assert error.message.startswith("the plan is not valid: a[0]: is missing; a[1]: ")
    assert error.message.endswith("a[7]: is missing (and 2 more)")
    problems = error.facts["problems"]
    assert isinstance(problems, list)
    assert problems[9] == {"path": "a[9]", "problem": "is missing", "known": ["x"]}


@given(st.dictionaries(st.sampled_from([*Whole.__annotations__, "other"]), ANY), st.booleans())
def test_any_values_are_valid_or_faults(given: dict[str, Any], texts: bool) -> None:
    """Never an exception; what is valid can be used, and every key is either valid or named in a fault."""
    given.pop("folder", None)
    reader = Reader(texts=texts)
    found = reader.table(Whole, given)
    Whole(**found)
    for key in given:
        assert key in found or any(fault.path.startswith(key) for fault in reader.faults)


def test_a_document_of_unknown_keys_is_given_up_early() -> None:
    """A hundred faults are enough, and few of them get a suggestion, which takes longer to find than the document to read."""
    reader = Reader()
    reader.table(Whole, {f"unknown{number}" + "x" * 5_000: number for number in range(10_000)})
    assert len(reader.faults) == 100
    assert max(len(fault.path) for fault in reader.faults) == 100


def test_faults_that_have_nothing_to_do_with_the_type_are_faults_too() -> None:
    """What a conversion raises on absurd values ends no request."""

    def overflow(value: object) -> float:
        raise OverflowError("intermediate overflow")

    def deep(value: object) -> float:
        raise RecursionError("too deep")

    for convert in (overflow, deep):
        reader = Reader()
        assert reader.value(Annotated[float, Given(convert)], "1", "hold") is INVALID
        assert [fault.path for fault in reader.faults] == ["hold"]
