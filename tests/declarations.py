"""What declarations say, so that tests can hold documentation and behaviour against them."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from roadworthy.foundation.documents import _fields, _unwrapped


def declared(kind: Any, note: type[Any], path: str = "") -> dict[str, Any]:
    """Every note of that class by the path of its field: `timeout_ms`, `cache.ttl_s`, `fallback[].kind`."""
    found: dict[str, Any] = {}
    for key, entry in _fields(kind).items():
        place = f"{path}{key}"
        inner, notes = _unwrapped(entry.hint)
        for each in notes:
            if isinstance(each, note):
                found[place] = each
        if get_origin(inner) is tuple:
            place, inner = f"{place}[]", get_args(inner)[0]
        if get_origin(inner) is None and getattr(inner, "__annotations__", None):
            found |= declared(inner, note, f"{place}.")
    return found
