"""Check a document against declared types and bounds: settings, policies, plans and manifests have this one validator.

A declaration is a class with annotated fields: a dataclass, a msgspec struct or a TypedDict. `Annotated` adds what no type says:

- `Bounds(1, 50)`: smallest and largest number, or fewest and most items of a list,
- `OneOf(("hold", "alert"))`: the values that a text may have,
- `Given(duration)`: a function that converts the value as it was written, before its type is checked,
- `Key("size")`: the document's key, where the field has another name,
- any other callable: it takes the checked value and returns the final one; what it raises becomes a fault.

`Reader` reports all faults of a document at once, each with its path, such as `steps[1].hold`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from roadworthy.foundation.errors import InvalidRequest, RoadworthyError

INVALID: Final = object()
"""What `Reader.value` returns for a value with a fault."""
_EXPECTED: Mapping[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_LONGEST = 40
_MOST_FAULTS = 100
"""After so many faults the rest is not read: a document of a million unknown keys must not cost minutes."""
_MOST_HINTS = 20
"""So many unknown keys get a suggestion; finding one takes longer than reading the document."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The smallest and the largest number, or the fewest and the most items of a list."""

    low: float
    high: float = math.inf


@dataclass(frozen=True, slots=True)
class OneOf:
    """The values that a text may have: those that are listed, and those that `more` finds in this process."""

    listed: tuple[str, ...]
    more: Callable[[], tuple[str, ...]] = tuple

    @property
    def known(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.listed, *self.more())


@dataclass(frozen=True, slots=True)
class Given:
    """Converts a value as it was written, before its type is checked. Raises ValueError with the fault."""

    convert: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """The key in the document of a field with another name."""

    name: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a document.

    Attributes:
        path: where, such as `steps[1].hold`; empty for the whole document.
        problem: what is wrong, what was expected and what came.
        known: the names or values that are possible there, as far as they are a fixed list.
        unknown: the fault is a key that does not exist.
    """

    path: str
    problem: str
    known: tuple[str, ...] = ()
    unknown: bool = False

    def to_document(self) -> dict[str, object]:
        """`path`, `problem` and `known` as JSON values."""
        return {"path": self.path, "problem": self.problem, "known": list(self.known)}


def listed(faults: Sequence[Fault], most: int = 8) -> str:
    """The first `most` faults in one line, and how many more there are."""
    shown = "; ".join(f"{each.path[:100]}: {each.problem}" if each.path else each.problem for each in faults[:most])
    return f"{shown} (and {len(faults) - most} more)" if len(faults) > most else shown


def invalid_request(what: str, faults: Sequence[Fault], *, code: str, hint: str) -> InvalidRequest:
    """The error for a document with faults; facts["problems"] has all of them."""
    problems = [fault.to_document() for fault in faults]
    return InvalidRequest(f"{what}: {listed(faults)}", code=code, hint=hint, facts={"problems": problems})


def plain(value: Any) -> Any:
    """A declared value as JSON values that `Reader.table` reads back: a dataclass, what has a `to_document`, a tuple of them."""
    if hasattr(value, "to_document"):
        return value.to_document()
    if is_dataclass(value):
        return {key: plain(getattr(value, entry.name)) for key, entry in _fields(cast("Any", type(value))).items()}
    if isinstance(value, Mapping):
        return dict(value)
    return [plain(item) for item in value] if isinstance(value, tuple) else value


@dataclass(slots=True)
class Reader:
    """Collects the faults of one document while its parts are read.

    Attributes:
        faults: all of them so far.
        texts: values may come as text, as from the environment ("8080", "yes", "a,b"), and no fault repeats a value: it may be a
            secret.
    """

    faults: list[Fault] = field(default_factory=list)
    texts: bool = False

    def table(self, kind: Any, given: object, path: str = "") -> dict[str, Any]:
        """The valid values of `given` by the field names of `kind`. Unknown, missing and invalid ones become faults."""
        fields = _fields(kind)
        if not isinstance(given, Mapping):
            self.fault(path, f"expected an object with some of {', '.join(fields)}{self._got(given)}")
            return {}
        found = {}
        for key, value in given.items():
            if len(self.faults) >= _MOST_FAULTS:
                break
            if key not in fields:
                self.unknown(_join(path, key), "key", str(key), tuple(fields))
            elif (valid := self.value(fields[key].hint, value, _join(path, key))) is not INVALID:
                found[fields[key].name] = valid
        for key, entry in fields.items():
            if entry.required and key not in given:
                known = _known(entry.hint)
                self.fault(_join(path, key), f"is missing; expected {_either(known)}" if known else "is missing", known)
        return found

    def value(self, hint: Any, value: object, path: str) -> Any:
        """`value` as `hint` declares it, or INVALID after a fault. A dataclass comes as an object; a struct or a TypedDict as the
        mapping of what was given, because defaults are the caller's."""
        kind, notes = _unwrapped(hint)
        if value is None and _is_optional(hint):
            return None
        try:
            for note in notes:
                value = note.convert(value) if isinstance(note, Given) else value
            if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
                self._check_bounds(notes, len(value), " items")
            found = self._typed(kind, value, path)
            return found if found is INVALID else self._noted(notes, found, path)
        except (ValueError, TypeError, OverflowError, RecursionError, RoadworthyError) as error:
            return self._invalid(path, str(error))

    def fault(self, path: str, problem: str, known: Iterable[str] = ()) -> None:
        """Note a fault that a declaration cannot express."""
        self.faults.append(Fault(path, problem, tuple(known)))

    def unknown(self, path: str, what: str, name: str, known: tuple[str, ...]) -> None:
        """Note that `name` is not one of the `known`, and name the most similar one, or all."""
        near = _near(name, known) if len(self.faults) < _MOST_HINTS and len(name) <= _LONGEST else ""
        hint = near or f"; known are {', '.join(known)}"
        self.faults.append(Fault(path, f"unknown {what}{hint}", known, unknown=True))

    def _invalid(self, path: str, problem: str, known: tuple[str, ...] = ()) -> Any:
        self.fault(path, problem, known)
        return INVALID

    def _typed(self, kind: Any, value: object, path: str) -> Any:
        origin = get_origin(kind)
        if origin is Literal:
            return self._noted((OneOf(get_args(kind)),), value, path)
        if origin is tuple:
            return self._items(get_args(kind)[0], value, path)
        if origin is not None:  # Mapping[str, X]
            if not isinstance(value, Mapping):
                raise TypeError(f"expected an object{self._got(value)}")
            found = {name: self.value(get_args(kind)[1], each, _join(path, name)) for name, each in value.items()}
            return {name: each for name, each in found.items() if each is not INVALID}
        if kind in _EXPECTED:
            return self._scalar(kind, value)
        made = kind is Any or (not is_typeddict(kind) and isinstance(value, kind))  # by Given
        return value if made else self._nested(kind, value, path)

    def _nested(self, kind: Any, value: object, path: str) -> Any:
        before = len(self.faults)
        found = self.table(kind, value, path)
        if is_dataclass(kind):
            return cast("Any", kind)(**found) if len(self.faults) == before else INVALID
        return found

    def _items(self, hint: Any, value: object, path: str) -> tuple[Any, ...]:
        items = value.split(",") if self.texts and isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise TypeError(f"expected a list{self._got(value)}")
        found = []
        for number, item in enumerate(items):
            if len(self.faults) >= _MOST_FAULTS:
                break
            found.append(self.value(hint, item, f"{path}[{number}]"))
        return tuple(item for item in found if item is not INVALID)

    def _scalar(self, kind: Any, value: object) -> object:
        if self.texts and (isinstance(value, str) or kind is bool):  # 1 is true in a file too
            return _from_text(kind, str(value).strip())
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise ValueError("expected a number, got one that is too large") from None
        if type(value) is not kind:
            raise TypeError(f"expected {_EXPECTED[kind]}{self._got(value)}")
        return value

    def _noted(self, notes: tuple[Any, ...], value: Any, path: str) -> Any:
        if isinstance(value, (int, float)):
            self._check_bounds(notes, value, "")
        for note in notes:
            if isinstance(note, OneOf) and value not in note.known:
                near = _near(value, note.known) if isinstance(value, str) else ""
                return self._invalid(path, f"expected {_either(note.known)}{self._got(value)}{near}", note.known)
            if callable(note):
                value = note(value)
        return value

    def _check_bounds(self, notes: tuple[Any, ...], number: float, unit: str) -> None:
        for note in notes:
            if isinstance(note, Bounds) and not note.low <= number <= note.high:
                raise ValueError(f"must {'have' if unit else 'be'} {_range(note)}{unit}{self._got(number)}")

    def _got(self, value: object) -> str:
        if self.texts:
            return ""
        if isinstance(value, (Mapping, list, tuple)):
            return ", got an object" if isinstance(value, Mapping) else ", got a list"
        if value is None or isinstance(value, bool):
            return f", got {json.dumps(value)}"
        if isinstance(value, (int, float)):
            return f", got {value if isinstance(value, float) or abs(value) < 10**_LONGEST else 'a larger number'}"
        return f", got text ({value[:_LONGEST]!r})" if isinstance(value, str) else f", got {type(value).__name__}"


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    hint: Any
    required: bool


@functools.cache
def _fields(kind: Any) -> Mapping[str, _Field]:
    """The fields of a declaration by the key that each has in a document."""
    hints = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        required = set(kind.__required_keys__)
    else:
        required = {name for name, each in inspect.signature(kind).parameters.items() if each.default is each.empty}
    return {_key(hint, name): _Field(name, hint, name in required) for name, hint in hints.items()}


def _key(hint: Any, name: str) -> str:
    return next((note.name for note in _unwrapped(hint)[1] if isinstance(note, Key)), name)


@functools.cache
def _is_optional(hint: Any) -> bool:
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return get_origin(plain) in (Union, types.UnionType) and type(None) in get_args(plain)


@functools.cache
def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type without `Annotated` and `| None`, and all notes."""
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        inner, more = _unwrapped(kind)
        return inner, (*more, *notes)
    if _is_optional(hint):
        return _unwrapped(next(each for each in get_args(hint) if each is not type(None)))
    return hint, ()


def _known(hint: Any) -> tuple[str, ...]:
    return next((note.known for note in _unwrapped(hint)[1] if isinstance(note, OneOf)), ())


def _from_text(kind: Any, text: str) -> object:
    if kind is str and not text:
        raise ValueError("must not be empty")
    try:
        return _SWITCHES[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"expected {_EXPECTED[kind]}") from None


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _either(known: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))


def _range(bounds: Bounds) -> str:
    low, high = (
        json.dumps(int(each) if math.isfinite(each) and abs(each) < 1e15 and each == int(each) else each)
        for each in (bounds.low, bounds.high)
    )
    return f"at least {low}" if bounds.high == math.inf else f"from {low} to {high}"


def _join(path: str, key: object) -> str:
    name = str(key)[:100]
    return f"{path}.{name}" if path else name
