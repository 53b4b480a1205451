"""The API's description is compatible with the kept ones of earlier releases: callers of those releases go on unchanged.

`descriptions/` has one file for each. `python tests/control/test_previous_description.py FILE` writes that of this code, which is
a step of a release.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from runpy import run_path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from roadworthy.control.http.app import build_routes
from roadworthy.control.wiring import build_context

KEPT = Path(__file__).with_name("descriptions")
control_document = run_path(str(Path(__file__).parents[1] / "defaults.py"))["control_document"]  # not by name: also as a script
TOLD = ("description", "title", "summary")
"""What is for people only, and may change."""


def described(folder: Path) -> dict[str, Any]:
    """The description of this code, without texts."""
    context = build_context(control_document(folder))
    try:
        app, _ = build_routes(context, lambda: False)
        found = app.openapi()
    finally:
        context.database.close()
    return {name: _plain(found[name]) for name in ("openapi", "paths", "components")}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if not (name in TOLD and isinstance(each, str))}
    return [_plain(each) for each in value] if isinstance(value, list) else value


class Comparison:
    """What a caller of the earlier description would miss in the later one."""

    def __init__(self, earlier: Mapping[str, Any], later: Mapping[str, Any]) -> None:
        self._earlier = earlier
        self._later = later

    def faults(self) -> Iterator[str]:
        """Each removal and change, with its place."""
        for path, methods in self._earlier["paths"].items():
            for method, earlier in methods.items():
                later = self._later["paths"].get(path, {}).get(method)
                if later is None:
                    yield f"{method} {path} is gone"
                else:
                    yield from self._operation(f"{method} {path}", earlier, later)

    def _operation(self, place: str, earlier: Mapping[str, Any], later: Mapping[str, Any]) -> Iterator[str]:
        generated = earlier["operationId"].endswith(("_get", "_post", "_put", "_delete"))  # by FastAPI
        if not generated and earlier["operationId"] != later["operationId"]:
            yield f"{place} has another operationId"
        named = {(each["in"], each["name"]): each for each in later.get("parameters", ())}
        for each in earlier.get("parameters", ()):
            now = named.pop((each["in"], each["name"]), None)
            if now is None:
                yield f"{place}: parameter {each['name']} is gone"
            else:
                yield from self._schema(f"{place}: parameter {each['name']}", each["schema"], now["schema"], sent=True)
        yield from (f"{place}: parameter {each['name']} is new and required" for each in named.values() if each.get("required"))
        bodies = [_content(each.get("requestBody", {})) for each in (earlier, later)]
        yield from self._schema(f"{place}: body", *bodies, sent=True)
        for status, reply in earlier["responses"].items():
            if status.startswith("2"):
                now = later["responses"].get(status)
                if now is None:
                    yield f"{place}: status {status} is gone"
                else:
                    yield from self._schema(f"{place}: {status}", _content(reply), _content(now), sent=False)

    def _schema(self, place: str, earlier: Any, later: Any, *, sent: bool) -> Iterator[str]:
        """`sent`: by callers; otherwise they read it."""
        before, now = _resolved(self._earlier, earlier), _resolved(self._later, later)
        kinds = _kinds(self._earlier, before), _kinds(self._later, now)
        if _lacks(*kinds) if sent else _lacks(*reversed(kinds)):
            yield f"{place} has another type"
            return
        properties = now.get("properties", {})
        if sent:
            yield from (
                f"{place}.{name} is new and required" for name in set(now.get("required", ())) - set(before.get("required", ()))
            )
        for name, schema in before.get("properties", {}).items():
            if name not in properties:
                yield f"{place}.{name} is gone"
            else:
                yield from self._schema(f"{place}.{name}", schema, properties[name], sent=sent)
        if "items" in before and "items" in now:
            yield from self._schema(f"{place}[]", before["items"], now["items"], sent=sent)


def _lacks(written: set[str], read: set[str]) -> bool:
    """Whether what is written may have a type that its reader does not expect. An empty set stands for any type."""
    return bool(written) and bool(read) and not written <= read


def _content(part: Mapping[str, Any]) -> Any:
    return next((each.get("schema", {}) for each in part.get("content", {}).values()), {})


def _resolved(document: Mapping[str, Any], schema: Any) -> Any:
    while isinstance(schema, dict) and "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    options = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    return _resolved(document, options[0]) if len(options) == 1 else schema


def _kinds(document: Mapping[str, Any], schema: Any) -> set[str]:
    """The JSON types that a schema allows; none if it allows any."""
    if "$ref" in schema:
        return _kinds(document, _resolved(document, schema))
    if "anyOf" in schema:
        found = [_kinds(document, each) for each in schema["anyOf"]]
        return set() if not all(found) else set().union(*found)
    kind = schema.get("type", [])
    return {kind} if isinstance(kind, str) else set(kind)


@pytest.mark.parametrize("kept", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_callers_of_earlier_releases_go_on(kept: Path, tmp_path: Path) -> None:
    """Additions are fine. Removals, other types and new requirements are not."""
    assert list(Comparison(json.loads(kept.read_text()), described(tmp_path)).faults()) == []


def test_removals_and_changes_are_found(tmp_path: Path) -> None:
    """In paths, parameters, bodies and replies."""
    found = described(tmp_path)
    earlier = json.loads(json.dumps(found))
    del found["paths"]["/api/v1/rollouts"]
    found["paths"]["/api/v1/audit"]["get"]["parameters"].pop()
    found["paths"]["/api/v1/status"]["get"]["operationId"] = "other"
    schemas = found["components"]["schemas"]
    schemas["NewKey"]["required"].append("name")
    schemas["NewKey"]["properties"]["endpoints"] = {"type": "string"}
    del schemas["ApiKey"]["properties"]["role"]
    schemas["Model"]["properties"]["latest"] = {"type": "string"}
    schemas["Model"]["properties"]["added"] = {"type": "string"}
    assert sorted(Comparison(earlier, found).faults()) == [
        "get /api/v1/audit: parameter subject is gone",
        "get /api/v1/keys: 200.items[].role is gone",
        "get /api/v1/models: 200.items[].latest has another type",
        "get /api/v1/rollouts is gone",
        "get /api/v1/status has another operationId",
        "post /api/v1/keys: body.endpoints has another type",
        "post /api/v1/keys: body.name is new and required",
    ]


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        text = json.dumps(described(Path(scratch)), indent=1, sort_keys=True)
    Path(sys.argv[1]).write_text(f"{text}\n")
