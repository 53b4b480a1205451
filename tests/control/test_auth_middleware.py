"""Which key may call which route: the tests walk the route table, so that a new route cannot be forgotten."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import httpx
import pytest

from roadworthy.control.context import ControlContext
from roadworthy.control.http.app import build_routes
from roadworthy.control.http.auth_middleware import OPEN, PROBES
from roadworthy.control.wiring import build_context
from roadworthy.foundation.keys import make_key
from tests.control.description import describe, numbers
from tests.control_plane import ControlProcess
from tests.defaults import control_document
from tests.waiting import DEADLINE_S, NO_TLS

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    """One control plane for all tests of this file: none of them changes what another one looks at."""
    process = ControlProcess(tmp_path_factory.mktemp("auth") / "control")
    yield process
    process.kill()


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlContext]:
    """What routes are built from."""
    folder = tmp_path_factory.mktemp("routes")
    found = build_context(control_document(folder))
    yield found
    found.database.close()


@pytest.fixture(scope="module")
def routes(context: ControlContext) -> list[tuple[str, str]]:
    """(method, path) of every route."""
    found = set()
    for route in _flat(build_routes(context, lambda: False)[0].routes):
        for method in route.methods or ():
            found.add((method, re.sub(r"{[^}]+}", "1", route.path)))
    return sorted(found)


@pytest.fixture(scope="module")
def described(context: ControlContext) -> dict[str, Any]:
    """The description of the API, including internal routes."""
    return describe(context)


def _flat(routes: Any) -> list[Any]:
    flat = []
    for route in routes:
        if hasattr(route, "path") and getattr(route, "methods", None):
            flat.append(route)
        else:
            inner = getattr(route, "original_router", None) or getattr(route, "router", None)
            flat.extend(_flat(getattr(inner, "routes", [])))
    return flat


def test_no_route_answers_without_a_key_but_the_open_ones(control: Any, routes: list[tuple[str, str]]) -> None:
    """F1: 401 everywhere except for probes and the API's description."""
    assert len([path for _, path in routes if path.startswith(("/api/", "/internal/"))]) >= 18
    with control.client(None) as nobody:
        for method, path in routes:
            status = nobody.request(method, path).status_code
            assert (status == 401) == (path not in OPEN), (method, path, status)


def test_a_wrong_key_is_told_apart_from_none(control: Any) -> None:
    """Both are 401, each with its own code and hint."""
    wrong = f"Bearer {make_key()[1]}"
    for authorization, code in (
        (None, "no-key"), ("", "no-key"), ("Bearer", "no-key"), ("Basic YTpi", "no-key"),
        (wrong, "unknown-key"), ("Bearer nonsense", "unknown-key"), (wrong.lower(), "unknown-key"),
    ):  # fmt: skip
        headers = {} if authorization is None else {"Authorization": authorization}
        reply = httpx.get(f"{control.url}/api/v1/status", headers=headers, timeout=DEADLINE_S, verify=NO_TLS)
        assert (reply.status_code, reply.json()["code"]) == (401, code), authorization
        assert reply.headers["www-authenticate"] == "Bearer"


def test_every_role_is_refused_what_is_not_its_own(control: Any, admin: httpx.Client, routes: list[tuple[str, str]]) -> None:
    """Admins cannot act as gateways, gateways and predictors cannot manage; predictors can give feedback and nothing else."""
    predictor = admin.post("/api/v1/keys", json={"role": "predictor"}).json()["key"]
    for key, allowed in (
        (predictor, ("/api/v1/endpoints/1/feedback",)),
        (control.gateway_key, ("/internal/",)),
        (control.admin_key, ("/api/",)),
    ):
        with control.client(key) as client:
            for method, path in routes:
                if path in OPEN or path.startswith(allowed):
                    continue
                assert client.request(method, path).status_code == 403, (method, path)


def test_an_unknown_host_is_refused(admin: httpx.Client) -> None:
    """A23: a name that is not this server's gets 400, with or without a key."""
    for host in ("evil.example", "127.0.0.1/?#", "127.0.0.1@evil.example", ""):
        reply = admin.get("/api/v1/status", headers={"Host": host})
        assert reply.status_code == 400, host
    assert admin.get("/api/v1/status", headers={"Host": "models.example:443"}).status_code == 200


def test_g13_probes_answer_whatever_the_host(control: Any) -> None:
    """A probe calls by a container's address. Any other path names the setting that would allow the name."""
    with control.client(None) as nobody:
        for path in PROBES:
            for host in ("10.1.2.3:8081", "evil.example", "a_b", ""):
                assert nobody.get(path, headers={"Host": host}).status_code == 200, (path, host)
        refused = nobody.get("/docs", headers={"Host": "evil.example"}).json()
    assert refused["code"] == "host-not-allowed"
    assert "control.allowed_hosts" in refused["hint"]
    assert "ROADWORTHY_CONTROL_ALLOWED_HOSTS" in refused["hint"]


def test_g18_a_long_body_is_refused_by_every_route(control: Any, routes: list[tuple[str, str]]) -> None:
    """By Content-Length before any of it is sent, or as soon as too much has arrived. Bodies that become files have their own
    bound."""
    keys = {"/api/": control.admin_key, "/internal/": control.gateway_key}
    for method, path in routes:
        key = next((key for start, key in keys.items() if path.startswith(start)), "")
        if path == "/internal/v1/records/1/1":  # files of this size are right there
            continue
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        status, text = spoken(control.url, f"{head}Content-Length: {200 << 20}\r\n\r\n", method)
        assert status == 413, (method, path, text)
        assert method == "HEAD" or b'"code": "body-too-large"' in text
    with control.client(control.admin_key) as client:
        for method, path in (("PUT", "/api/v1/endpoints/1"), ("POST", "/api/v1/keys"), ("POST", "/api/v1/webhooks")):
            reply = client.request(method, path, content=(b"[" * (1 << 19) for _ in range(3)), headers=JSON)
            assert (reply.status_code, reply.json()["code"]) == (413, "body-too-large"), path


def spoken(url: str, head: str, method: str) -> tuple[int, bytes]:
    """Status and body of the reply to a head without a body."""
    parts = httpx.URL(url)
    with socket.create_connection((parts.host, parts.port or 80), DEADLINE_S) as end:
        end.sendall(head.encode())
        reply = HTTPResponse(end, method=method)
        reply.begin()
        return reply.status, reply.read()


def test_what_a_path_takes_is_told_whole(admin: httpx.Client) -> None:
    """Even where several routes share the path."""
    for path, allow in (("/api/v1/keys", "GET, POST"), ("/api/v1/endpoints/line", "DELETE, GET, PUT")):
        reply = admin.patch(path)
        assert (reply.status_code, reply.headers["allow"]) == (405, allow)


def test_a_nul_is_in_no_name(admin: httpx.Client) -> None:
    """It is refused before any query: PostgreSQL cannot store it."""
    for url in ("/api/v1/endpoints/a%00", "/api/v1/audit?before=%00", "/api/v1/models?cursor=a%00b"):
        reply = admin.get(url)
        assert (reply.status_code, reply.json()["code"]) == (400, "invalid-request")


def test_a_body_that_does_not_say_its_length_is_read(admin: httpx.Client) -> None:
    """Up to the same bound; a body with too deep nesting or too long a key gets one short refusal."""
    made = admin.post("/api/v1/keys", content=iter([b'{"role":', b'"predictor"}']), headers=JSON)
    assert made.status_code == 201, made.text
    deep = (b'{"version": "a:1", "policy": {"a": %b%b}}' % (b"[" * n, b"]" * n) for n in (50, 400, 900, 950, 400_000))
    for body in (*deep, b'{"version": "a:1", "%b": 1}' % (b"x" * 900_000)):
        reply = admin.put("/api/v1/endpoints/line", content=body, headers=JSON)
        assert 400 <= reply.status_code < 500
        assert len(reply.content) < 2_000


BEYOND = (1 << 63, (1 << 63) - 1, -(1 << 63) - 1, 1 << 64, -1, 10**400, "9" * 5_000)


def test_g18_integers_are_bounded_on_every_route(control: Any, described: dict[str, Any]) -> None:
    """In the description, for callers, and in fact: an integer that no database can hold is refused, never an internal error."""
    numbers = [
        (method, path, parameter["name"], parameter["in"], parameter["schema"])
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
        for parameter in operation.get("parameters", ())
        if parameter["schema"].get("type") in ("integer", "number")
    ]
    assert len(numbers) >= 10
    clients = {start: control.client(key) for start, key in (("/i", control.gateway_key), ("/a", control.admin_key))}
    for method, path, name, where, schema in numbers:
        assert {"minimum", "maximum"} <= schema.keys(), (path, name)
        for value in BEYOND:
            url = re.sub(r"{\w+}", "a", path.replace(f"{{{name}}}", str(value)))
            query = {name: str(value)} if where == "query" else {}
            reply = clients[path[:2]].request(method, url, params=query)
            assert 400 <= reply.status_code < 500, (method, url, query, reply.text)
    for client in clients.values():
        client.close()


def test_g18_integers_in_bodies_are_bounded(admin: httpx.Client, gateway: Any, described: dict[str, Any]) -> None:
    """The same goes for telemetry."""
    sent = list(numbers(described["components"]["schemas"]))
    assert len(sent) >= 30
    assert [each for each in sent if not {"minimum", "maximum"} <= each.keys()] == []
    for value in (1 << 63, 1 << 64, -1, 10**400):
        deployed = admin.put("/api/v1/endpoints/line", json={"version": "line:1", "if_generation": value})
        assert (deployed.status_code, deployed.json()["code"]) == (422, "invalid-request")
        reported = gateway.report(sequence=value)
        assert (reported.status_code, reported.json()["code"]) == (400, "malformed-telemetry")
    for value in ((1 << 53) - 1, 0):
        assert gateway.report(sequence=value, lost_records=value).status_code == 200


def test_a_revoked_key_is_dead_at_once_and_the_last_admin_stays(admin: httpx.Client, control: Any) -> None:
    """Revocation needs no restart, and the last admin key cannot be revoked."""
    made = admin.post("/api/v1/keys", json={"role": "admin"}).json()
    with control.client(made["key"]) as other:
        assert other.get("/api/v1/status").status_code == 200
        assert admin.delete(f"/api/v1/keys/{made['id']}").status_code == 204
        assert other.get("/api/v1/status").status_code == 401
    last = admin.delete(f"/api/v1/keys/{control.admin_id}")
    assert (last.status_code, last.json()["code"]) == (409, "last-admin-key")


def test_key_texts_are_kept_nowhere(admin: httpx.Client, control: Any) -> None:
    """F16: a key's text is in the reply that created it and in no file."""
    text = admin.post("/api/v1/keys", json={"role": "predictor", "endpoints": ["flights"]}).json()["key"]
    assert text not in admin.get("/api/v1/keys").text
    secret = text.rpartition("_")[2].encode()
    files = [path for path in control.folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if secret in path.read_bytes()]


def test_errors_are_problem_replies_without_internals(admin: httpx.Client) -> None:
    """Wrong bodies, types and routes get replies of one form, with a code and the request's id."""
    replies = [
        admin.put("/api/v1/endpoints/line", content=b"{", headers={"Content-Type": "application/json"}),
        admin.put("/api/v1/endpoints/line", json={"version": 3}),
        admin.put("/api/v1/endpoints/Bad Name", json={"version": "a:1"}),
        admin.put("/api/v1/endpoints/line", json={"version": "a"}),
        admin.post("/api/v1/keys", json={"role": "king"}),
        admin.get("/api/v1/endpoints/line/predictions", params={"last": 10**9}),
        admin.get("/api/v1/nothing"),
        admin.patch("/api/v1/status"),
    ]
    for reply in replies:
        body = reply.json()
        assert 400 <= reply.status_code < 500, reply.text
        assert reply.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail", "code", "hint", "request_id"} <= body.keys()
        assert body["request_id"] == reply.headers["x-request-id"]
        assert "Traceback" not in reply.text
        assert "/src/" not in reply.text


def test_every_reply_carries_the_requests_id_once(admin: httpx.Client) -> None:
    """The caller's id if it is a plain one, otherwise a new one; on success and on failure."""
    for path in ("/livez", "/api/v1/status", "/api/v1/nothing", "/api/v1/endpoints/none"):
        reply = admin.get(path, headers={"X-Request-Id": "mine-1"})
        assert reply.headers.get_list("x-request-id") == ["mine-1"], path
        other = admin.get(path, headers={"X-Request-Id": "two words"})
        assert other.headers["x-request-id"].startswith("req-")


def test_the_page_of_the_api_needs_nothing_from_elsewhere(control: Any) -> None:
    """Page, script and style come from this server, so the page opens without internet access."""
    with control.client(None) as nobody:
        html = nobody.get("/docs").text
        assert "https://" not in html
        for path in re.findall(r'(?:src|href)="([^"]+)"', html):
            assert nobody.get(path).status_code == 200, path
        described = nobody.get("/openapi.json").json()
    assert "HTTPBearer" in described["components"]["securitySchemes"]
    assert "/api/v1/packages" in described["paths"]
    assert not [path for path in described["paths"] if path.startswith("/internal/")]
