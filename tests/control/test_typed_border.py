"""Every route of the control plane is an operation of `contract/api`: typed, named, and with the permission that it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest

from roadworthy.contract.api.endpoints import Deployment
from roadworthy.contract.api.operation import FEEDBACK, GATEWAY, MANAGE, OPEN, READ, RELEASE, Operation, Page, Resource
from roadworthy.contract.api.rollouts import NewRollout
from roadworthy.control.http.app import build_routes
from roadworthy.control.http.auth_middleware import PROBES
from roadworthy.control.http.routing import read_body
from roadworthy.control.wiring import build_context
from roadworthy.foundation.errors import InvalidInput
from tests.defaults import control_document

UNTYPED = re.compile(r"(dict|Mapping)\[str, Any\]|: Any\b|-> Any\b")
HTTP = Path(__file__).parents[2] / "src" / "roadworthy" / "control" / "http"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], list[Operation[Any]]]]:
    """The whole description, and the operations."""
    context = build_context(control_document(tmp_path_factory.mktemp("routes")))
    app, operations = build_routes(context, lambda: False, describe_all=True)
    yield app.openapi(), operations
    context.database.close()


def test_the_description_is_made_once(tmp_path: Path) -> None:
    """Making it takes tens of milliseconds of the event loop, and reading it needs no key."""
    context = build_context(control_document(tmp_path))
    app, _ = build_routes(context, lambda: False)
    assert app.openapi() is app.openapi()
    context.database.close()


def test_every_route_is_an_operation(built: tuple[dict[str, Any], list[Operation[Any]]]) -> None:
    """Except for the pages; each has a name of its own."""
    described, operations = built
    routes = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    known = {(each.method, each.path.replace(":path}", "}")) for each in operations}
    assert {path.partition("/docs")[0] for _, path in routes - known} == {""}
    assert known <= routes
    assert len({each.name for each in operations}) == len(operations) >= 36


def test_every_reply_and_body_is_typed(built: tuple[dict[str, Any], list[Operation[Any]]]) -> None:
    """A resource, a page of resources, a file or nothing; the snapshot and the frame are messages of the contract."""
    for each in built[1]:
        if each.permission != GATEWAY:
            for kind in (*each.kinds, each.body or type(None)):
                shape = get_origin(kind) or kind
                assert shape in (bytes, type(None), Page) or issubclass(shape, Resource), each.name


def test_no_route_hands_untyped_mappings_about() -> None:
    """Only the file that makes routes of operations, and the one that makes replies of errors, look into documents."""
    found = {
        f"{path.name}:{number}"
        for path in HTTP.glob("*.py")
        if path.name not in ("routing.py", "problems.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if UNTYPED.search(line) and "def newest" not in line and "handle: Any" not in line
    }
    assert found == set()


def test_every_operation_declares_its_permission(built: tuple[dict[str, Any], list[Operation[Any]]]) -> None:
    """Nothing but probes is open, reading never changes anything, and what changes keys and webhooks is for those who manage."""
    for each in built[1]:
        assert (each.permission == OPEN) == (each.path in PROBES), each.name
        assert (each.permission == GATEWAY) == each.path.startswith("/internal/"), each.name
        if each.permission == READ:
            assert each.method == "GET", each.name
        elif each.permission in (RELEASE, MANAGE, FEEDBACK):
            assert each.method != "GET", each.name
            assert (each.permission == MANAGE) == bool(re.search(r"/(keys|webhooks)\b", each.path)), each.name


@pytest.mark.parametrize("kind", [Deployment, NewRollout])
def test_bodies_that_the_first_releases_took_are_taken(kind: type[Any]) -> None:
    """They read whole numbers and switches from other JSON values too, as scripts in shell and YAML send them."""
    for sent, number in (('"1"', 1), ("1.0", 1), ("1e3", 1_000), ("true", 1), ('"2.0"', 2), ("null", None)):
        assert read_body(kind, f'{{"version":"a:1","if_generation":{sent}}}'.encode()).if_generation == number
    for sent, on in (('"true"', True), ('"No"', False), ("1", True), ("0.0", False)):
        assert read_body(kind, f'{{"version":"a:1","supersede":{sent}}}'.encode()).supersede is on
    for member in ('"if_generation":"x"', '"if_generation":1.5', '"if_generation":-1', '"supersede":2', '"supersede":"x"'):
        with pytest.raises(InvalidInput):
            read_body(kind, f'{{"version":"a:1",{member}}}'.encode())


@pytest.mark.parametrize(("kind", "name"), [(Deployment, "policy"), (NewRollout, "plan")])
def test_text_that_no_reply_can_hold_is_refused(kind: type[Any], name: str) -> None:
    """As a fault of the request; it was an internal error."""
    with pytest.raises(InvalidInput, match="surrogate"):
        read_body(kind, f'{{"version":"a:1","{name}":{{"fallback":[{{"value":"\\ud800"}}]}}}}'.encode())


def test_lists_are_pages(built: tuple[dict[str, Any], list[Operation[Any]]]) -> None:
    """Each has `items` and `next`, and takes a cursor or a number of items."""
    described, operations = built
    lists = [each for each in operations if each.name.startswith("list_")]
    assert len(lists) >= 10
    for each in lists:
        page = get_origin(each.reply) or each.reply
        assert issubclass(page, Page), each.name
        taken = {parameter["name"] for parameter in described["paths"][each.path]["get"]["parameters"]}
        assert taken & {"cursor", "before", "after", "last"}, each.name
