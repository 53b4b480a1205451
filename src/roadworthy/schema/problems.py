"""Collects everything that is wrong with a caller's rows, so that one reply tells it all.

Used by `rows.py` and `tables.py`; gives one InvalidInput. It knows names, positions and what was expected, never the values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from roadworthy.foundation.errors import InvalidInput

LIMIT = 20
_NAME_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not fit.

    Attributes:
        code: "missing-columns", "unknown-columns", "wrong-type", "out-of-range", "not-finite", "null-not-allowed",
            "unknown-category", "wrong-shape" or "empty-batch".
        name: the column, or None when a whole row is meant.
        row: position in the request, from 0, or None when no single row is meant.
        expected: what would have fitted, in words.
        found: what kind of thing came instead, in words; never the value.
    """

    code: str
    name: str | None
    row: int | None
    expected: str
    found: str

    def sentence(self) -> str:
        place = [] if self.row is None else [f"row {self.row}"]
        if self.name is not None:
            place.append(f"column {self.name!r}")
        return f"{', '.join(place) or 'the rows'}: expected {self.expected}, found {self.found}"


class Problems:
    """A bounded list of problems; `more` counts those beyond it."""

    def __init__(self) -> None:
        self._kept: list[Problem] = []
        self._codes: list[str] = []
        self._names: dict[str, dict[str, None]] = {"missing-columns": {}, "unknown-columns": {}}
        self.more = 0

    @property
    def any(self) -> bool:
        return bool(self._codes)

    def add(self, problem: Problem) -> None:
        """Keep `problem`, or count it when the list is full."""
        if problem.code not in self._codes:
            self._codes.append(problem.code)
        if len(self._kept) < LIMIT:
            self._kept.append(problem)
        else:
            self.more += 1

    def add_names(self, code: str, names: Iterable[str], row: int) -> None:
        """Columns that are missing, or that nobody knows, each reported at the first row where it happens."""
        seen = self._names[code]
        for name in names:
            if name in seen:
                continue
            if code == "unknown-columns" and len(seen) >= LIMIT:
                self.more += 1
                continue
            seen[name] = None
            expected, found = ("a value", "none") if code == "missing-columns" else ("no such column", "one")
            self.add(Problem(code, printable(name), row, expected, found))

    def raise_any(self) -> None:
        """
        Raises:
            InvalidInput: when anything was added; its code is the only kind that occurred, or "invalid-input" for several.
        """
        if not self._codes:
            return
        facts: dict[str, object] = {
            "fields": [
                {
                    "name": kept.name,
                    "row": kept.row,
                    "problem": kept.code,
                    "expected": kept.expected,
                    "found": kept.found,
                }
                for kept in self._kept
            ]
        }
        for code, key in (("missing-columns", "missing"), ("unknown-columns", "unknown")):
            if self._names[code]:
                facts[key] = [printable(name) for name in self._names[code]]
        count = len(self._kept) + self.more
        if count > len(self._kept):
            facts["problems"] = count
        code = self._codes[0] if len(self._codes) == 1 else "invalid-input"
        raise InvalidInput(self._message(count), code=code, hint=_HINTS.get(code), facts=facts)

    def _message(self, count: int) -> str:
        first = self._kept[0]
        names = self._names.get(first.code, {})
        if names:
            listed = ", ".join(repr(printable(name)) for name in names)
            what = "missing" if first.code == "missing-columns" else "unknown"
            text = f"{what} column{'s' if len(names) > 1 else ''} {listed} in row {first.row}"
            count -= len(names) - 1
        else:
            text = first.sentence()
        return text if count <= 1 else f"{text}; and {count - 1} more problem{'s' if count > 2 else ''}"


def printable(name: str) -> str:
    """A column name that may stand in an error: bounded, without control characters or lone surrogates."""
    kept = name if len(name) <= _NAME_CHARACTERS else name[: _NAME_CHARACTERS - 1] + "…"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in kept)


_HINTS = {
    "missing-columns": "send every column that the endpoint's signature lists, null where a value is unknown and may be",
    "unknown-columns": "leave out columns that the endpoint's signature does not list",
    "not-finite": "send null for an unknown value where the signature says nullable",
    "empty-batch": "send at least one row",
}
