"""Between dataclasses and rows: a field has the column of its name, and a tuple or an object is JSON text there."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from sqlalchemy import Row

Record = TypeVar("Record")


def columns_of(record: Any, *but: str) -> dict[str, Any]:
    """The values of a dataclass by column, without the fields `but`."""
    found = {each.name: getattr(record, each.name) for each in fields(record) if each.name not in but}
    return {name: json.dumps(value) if isinstance(value, (tuple, dict)) else value for name, value in found.items()}


def read_row(kind: type[Record], row: Row[Any], **given: Any) -> Record:
    """The dataclass of a row; `given` are the fields that have no column of their name."""
    readers = _readers(cast("Any", kind)).items()
    return kind(**{name: read(getattr(row, name)) for name, read in readers if name not in given}, **given)


@functools.cache
def _readers(kind: Any) -> Mapping[str, Callable[[Any], Any]]:
    return {name: _reader(hint) for name, hint in get_type_hints(kind).items()}


def _reader(hint: Any) -> Callable[[Any], Any]:
    kinds: list[Any] = [get_origin(each) for each in (hint, *get_args(hint))]
    document = next((kind for kind in (tuple, dict) if kind in kinds), None)
    if document is None:
        return lambda value: value
    return lambda text: None if text is None else document(json.loads(text))
