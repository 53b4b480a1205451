"""Reads a person's YAML or JSON text into plain values. Anchors, tags, repeated keys and long texts are refused.

YAML includes JSON. PyYAML is imported with the first text, so a controller that gets plans as values does not need it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MOST_BYTES = 64 << 10
MOST_DEPTH = 12
_TAG = "tag:yaml.org,2002:"
_EXPONENT = re.compile(r"[-+]?[0-9]+e[-+]?[0-9]+")
"""Such as 1e-3, which YAML 1.1 reads as text because it has no point."""


def in_this_form(document: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with `criteria` where a plan of the first release says `guards`; plans of people and plans in the store."""
    if "criteria" in document:
        return dict(document)
    return {"criteria" if key == "guards" else key: value for key, value in document.items()}


def load(text: str | bytes) -> Any:
    """Read one document.

    Raises:
        ValueError: the text is unreadable; with line and column where known.
    """
    import yaml

    if len(text) > MOST_BYTES:
        raise ValueError(f"a plan may have at most {MOST_BYTES >> 10} KiB, got {len(text) / 1024:,.0f} KiB")
    try:
        _survey(text)
        return _values(yaml.compose(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ValueError(f"unreadable{place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError("unreadable: expected text in UTF-8") from error


def _survey(text: str | bytes) -> None:
    """Refuse text that would cost more than its size to read: anchors, references and deep nesting."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"line {line} has an anchor or a reference, which plans may not contain")
        if depth > MOST_DEPTH:
            raise ValueError(f"line {line} is nested more than {MOST_DEPTH} levels deep")


def _values(node: Any) -> Any:
    """The value of a node: as YAML's safe loader reads it, without some of its surprises."""
    import yaml

    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [_values(each) for each in node.value]
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ValueError(f"a key in line {line} is not a name")  # noqa: TRY004 - the text is wrong, not a caller's type
            if key_node.value in found:
                raise ValueError(f"the key {key_node.value} appears again in line {line}")
            found[key_node.value] = _values(value_node)
        return found
    return None if node is None else _scalar(node)


def _scalar(node: Any) -> Any:
    """Text stays text, except numbers, true, false and null: `on`, `no`, 1:30 and dates stay as written."""
    import yaml

    kind, text = node.tag.removeprefix(_TAG), node.value
    if kind in ("int", "float") and ":" not in text:
        return yaml.SafeLoader("").construct_object(node)
    if kind == "str" and node.style is None and _EXPONENT.fullmatch(text):
        return float(text)
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "null":
        return None
    if kind in ("str", "bool", "int", "float", "timestamp", "merge", "value"):
        return text
    raise ValueError(f"line {node.start_mark.line + 1} has a value of a type that plans do not have")
