"""Who may call what: found by walking the route table, so that a new route cannot be forgotten."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.control.app import build_routes
from roadworthy.control.border import OPEN
from roadworthy.control.wiring import build_plane
from roadworthy.foundation.keys import make_key
from tests.waiting import DEADLINE_S


@pytest.fixture
def routes(tmp_path: Path) -> list[tuple[str, str]]:
    """(method, path) of every route there is."""
    plane = build_plane({"database_url": f"sqlite:///{tmp_path / 'a.db'}", "blob_folder": str(tmp_path / "blobs")})
    found = set()
    for route in _flat(build_routes(plane, lambda: False).routes):
        for method in route.methods or ():
            found.add((method, re.sub(r"{[^}]+}", "1", route.path)))
    plane.database.close()
    return sorted(found)


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
    """F1: 401 everywhere except probes and the API's description."""
    assert len([path for _, path in routes if path.startswith(("/api/", "/internal/"))]) >= 18
    with control.client(None) as nobody:
        for method, path in routes:
            status = nobody.request(method, path).status_code
            assert (status == 401) == (path not in OPEN), (method, path, status)


def test_a_wrong_key_is_told_apart_from_none(control: Any) -> None:
    """Both are 401, with the code and the way out of each."""
    wrong = f"Bearer {make_key()[1]}"
    for authorization, code in (
        (None, "no-key"), ("", "no-key"), ("Bearer", "no-key"), ("Basic YTpi", "no-key"),
        (wrong, "unknown-key"), ("Bearer nonsense", "unknown-key"), (wrong.lower(), "unknown-key"),
    ):  # fmt: skip
        headers = {} if authorization is None else {"Authorization": authorization}
        reply = httpx.get(f"{control.url}/api/v1/status", headers=headers, timeout=DEADLINE_S)
        assert (reply.status_code, reply.json()["code"]) == (401, code), authorization
        assert reply.headers["www-authenticate"] == "Bearer"


def test_every_role_is_refused_what_is_not_its_own(
    control: Any, admin: httpx.Client, routes: list[tuple[str, str]]
) -> None:
    """Admins do not play gateway, gateways and predictors do not manage; predictors give feedback, and that is all."""
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
    """A23: names that are not this server's get 400, with a key or without."""
    for host in ("evil.example", "127.0.0.1/?#", "127.0.0.1@evil.example", ""):
        reply = admin.get("/api/v1/status", headers={"Host": host})
        assert reply.status_code == 400, host
    assert admin.get("/api/v1/status", headers={"Host": "models.example:443"}).status_code == 200


def test_a_revoked_key_is_dead_at_once_and_the_last_admin_stays(admin: httpx.Client, control: Any) -> None:
    """Revocation needs no restart, and nobody can lock himself out."""
    made = admin.post("/api/v1/keys", json={"role": "admin"}).json()
    with control.client(made["key"]) as other:
        assert other.get("/api/v1/status").status_code == 200
        assert admin.delete(f"/api/v1/keys/{made['id']}").status_code == 204
        assert other.get("/api/v1/status").status_code == 401
    last = admin.delete(f"/api/v1/keys/{control.admin_id}")
    assert (last.status_code, last.json()["code"]) == (409, "last-admin-key")


def test_key_texts_are_kept_nowhere(admin: httpx.Client, control: Any) -> None:
    """F16: a key's text is in the reply that made it and in no file."""
    text = admin.post("/api/v1/keys", json={"role": "predictor", "endpoints": ["flights"]}).json()["key"]
    assert text not in admin.get("/api/v1/keys").text
    secret = text.rpartition("_")[2].encode()
    files = [path for path in control.folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if secret in path.read_bytes()]


def test_errors_are_problem_replies_without_internals(admin: httpx.Client) -> None:
    """Wrong bodies, types and routes get one shape, with a code and the request's id."""
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
    """The caller's id when it is a plain one, else one of ours; on good replies as on bad ones."""
    for path in ("/livez", "/api/v1/status", "/api/v1/nothing", "/api/v1/endpoints/none"):
        reply = admin.get(path, headers={"X-Request-Id": "mine-1"})
        assert reply.headers.get_list("x-request-id") == ["mine-1"], path
        other = admin.get(path, headers={"X-Request-Id": "two words"})
        assert other.headers["x-request-id"].startswith("req-")


def test_the_page_of_the_api_needs_nothing_from_elsewhere(control: Any) -> None:
    """Page, script and style come from this server: it opens on a machine without the internet."""
    with control.client(None) as nobody:
        html = nobody.get("/docs").text
        assert "https://" not in html
        for path in re.findall(r'(?:src|href)="([^"]+)"', html):
            assert nobody.get(path).status_code == 200, path
        described = nobody.get("/openapi.json").json()
    assert "HTTPBearer" in described["components"]["securitySchemes"]
    assert "/api/v1/packages" in described["paths"]
    assert not [path for path in described["paths"] if path.startswith("/internal/")]
