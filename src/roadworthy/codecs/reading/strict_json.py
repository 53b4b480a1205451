"""Reads JSON exactly, or refuses it with the reason. It is slow and careful; the fast readers fall back on it when they are not
sure.

Unlike the usual parsers it refuses duplicate keys, lone surrogates, NUL, a byte order mark and deep nesting. Integers keep their
exact value. NaN and infinities are read, so that the schema can name the field that holds one, and are counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from roadworthy.foundation.errors import MalformedBody

MAX_DEPTH = 100
MAX_INTEGER_DIGITS = 4_300
_BOM = b"\xef\xbb\xbf"


def read_document(body: bytes) -> tuple[Any, int]:
    """The value of `body`, and how many of its numbers are not finite (NaN, Infinity, 1e999).

    Raises:
        MalformedBody: codes "empty-body", "invalid-utf-8", "malformed-json", "duplicate-key", "too-deep", "integer-too-long" and
            "invalid-text".
    """
    if not body:
        raise MalformedBody("the body is empty", code="empty-body", hint="send a JSON object")
    text = _decode_text(body)
    reader = _Reader()
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=reader.number,
            parse_constant=reader.number,
        )
    except RecursionError:
        raise too_deep() from None
    except json.JSONDecodeError as error:
        raise MalformedBody(
            f"the body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            code="malformed-json",
            facts={"line": error.lineno, "column": error.colno},
        ) from None
    if text.count("[") + text.count("{") > MAX_DEPTH or "\\u" in text:
        _check_values(value)
    return value, reader.not_finite


def _decode_text(body: bytes) -> str:
    if body.startswith(_BOM):
        raise MalformedBody("the body starts with a byte order mark", code="invalid-utf-8", hint="send UTF-8 without a BOM")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBody(
            f"the body is not valid UTF-8 at byte {error.start}",
            code="invalid-utf-8",
            hint="encode the body as UTF-8",
            facts={"byte": error.start},
        ) from None


class _Reader:
    __slots__ = ("not_finite",)

    def __init__(self) -> None:
        self.not_finite = 0

    def number(self, text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            self.not_finite += 1
        return value


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise MalformedBody(
            f"the body holds an integer of more than {MAX_INTEGER_DIGITS} digits",
            code="integer-too-long",
            hint="send an identifier as text; no column holds such a number",
        )
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise MalformedBody(
                    f"the key {_shown(name)} occurs twice in one object",
                    code="duplicate-key",
                    hint="send each key once",
                    facts={"key": _shown(name)},
                )
            seen.add(name)
    return members


def _shown(name: str) -> str:
    """A key as it may appear in a message: bounded, printable, quoted."""
    cut = name if len(name) <= 64 else f"{name[:64]}…"
    return json.dumps(cut)


def _check_values(value: Any) -> None:
    for text in _texts(value):
        if "\0" in text:
            raise MalformedBody("the body holds text with a NUL character", code="invalid-text", hint="remove \\u0000")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise MalformedBody(
                "the body holds a lone surrogate, which is not a character",
                code="invalid-text",
                hint="send \\ud800 to \\udfff in pairs only",
            )


def _texts(value: Any) -> Iterator[str]:
    """Every key and string in `value`, without recursion.

    Raises:
        MalformedBody: "too-deep".
    """
    level: list[Any] = [value]
    depth = 0
    while level:
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, str):
                yield item
            elif isinstance(item, dict):
                yield from item
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
        # Scalars inside the deepest allowed array do not nest further.
        depth += any(isinstance(item, (dict, list)) for item in level)
        if depth > MAX_DEPTH:
            raise too_deep()
        level = deeper


def too_deep() -> MalformedBody:
    """The error for a body that nests deeper than MAX_DEPTH."""
    return MalformedBody(
        f"the body nests deeper than {MAX_DEPTH} levels",
        code="too-deep",
        hint=f"nest arrays and objects at most {MAX_DEPTH} deep",
        facts={"max_depth": MAX_DEPTH},
    )
