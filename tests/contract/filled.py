"""Makes messages and stored documents in which every member has a value. Also run by its path, with the interpreter of another
release: `filled.py MODULE:CLASS …` prints one JSON document for each class.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

_VALUES: dict[Any, Any] = {str: "x", int: 3, float: 1.5, bool: True}


def filled(kind: Any) -> Any:
    """A value of this type without any default but `format`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _VALUES or kind is Any:
        return _VALUES.get(kind, "x")
    if origin in (Union, types.UnionType):
        return filled(next(each for each in arguments if each is not type(None)))
    if origin is tuple:
        return (filled(arguments[0]),) if arguments[1:] == (...,) else tuple(map(filled, arguments))
    if origin is list:
        return [filled(arguments[0])]
    if origin is dict:
        return {"x": filled(arguments[1])}
    hints = get_type_hints(kind)
    return kind(**{name: filled(hints[name]) for name in kind.__struct_fields__ if name != "format"})


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        module, _, name = asked.partition(":")
        document = msgspec.to_builtins(filled(getattr(importlib.import_module(module), name)))
        sys.stdout.write(json.dumps(document) + "\n")
