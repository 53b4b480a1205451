"""`rw.Client` against a real worker, and against servers that misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pandas as pd
import pytest

import roadworthy as rw
from roadworthy.client import Client
from roadworthy.contract.api.registry import Model
from roadworthy.foundation.sockets import listen


@pytest.fixture(autouse=True)
def _alone(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore this machine's configuration."""
    monkeypatch.setenv("ROADWORTHY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def url(start_worker: Any, make_plan: Any) -> str:
    """A worker with an endpoint "sums" that adds a, b and c."""
    plan = make_plan()
    plan.endpoint("sums", [plan.package(1)])
    return f"http://127.0.0.1:{start_worker(plan).wait_ready().port}"


def test_a_frame_comes_back_as_a_frame(url: str) -> None:
    """predict accepts a DataFrame; the answer names its version, and becomes a DataFrame with the same index."""
    rows = pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 0.5], "c": [0.0, 0.0]}, index=["x", "y"])
    with Client(url) as client:
        answer = client.predict("sums", rows)
    assert answer.predictions == [2.0, 2.5]
    assert len(answer) == 2
    assert answer.version == "m:1"
    assert answer.digest.startswith("sha256:")
    assert answer.runtime == "planted"
    assert len(answer.id) == 32
    assert answer.request_id
    assert answer.to_frame()["prediction"].to_dict() == {"x": 2.0, "y": 2.5}


def test_a_refused_row_is_a_typed_error(url: str) -> None:
    """The server's code, hint, fields and request id are in the error."""
    with Client(url) as client, pytest.raises(rw.InvalidInput) as caught:
        client.predict("sums", {"a": 1.0})
    assert caught.value.code == "missing-columns"
    assert {field["name"] for field in caught.value.facts["fields"]} == {"b", "c"}  # type: ignore[attr-defined]
    assert caught.value.facts["request_id"]
    assert caught.value.facts["status"] == 422


def test_an_unknown_endpoint(url: str) -> None:
    """NotFound, and the name is escaped on its way."""
    with Client(url) as client:
        with pytest.raises(rw.NotFound):
            client.predict("nope", [[1]])
        with pytest.raises(rw.RoadworthyError):
            client.predict("../../x?y#z", [[1]])


def test_nobody_listens() -> None:
    """A closed port is "unreachable", without the key in the message."""
    with listen("127.0.0.1", 0) as socket:
        port = socket.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", key="rw_secretse_cret") as client, pytest.raises(rw.ClientError) as caught:
        client.predict("e", [1])
    assert caught.value.code == "unreachable"
    assert "rw_" not in str(caught.value) + repr(caught.value.facts)


VERSION = {
    "name": "m",
    "version": 1,
    "digest": "sha256:0",
    "size_bytes": 1,
    "pushed_at": "",
    "pushed_by": "",
    "allowed_by": None,
    "runtimes": [],
    "grants": [],
    "serving": [],
    "signature": {},
}
Reply = tuple[int, bytes]


@pytest.fixture
def server() -> Iterator[Callable[..., tuple[str, list[Any]]]]:
    """Starts a server with one fixed reply; returns its address and the requests it received."""
    running: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes, **headers: str) -> tuple[str, list[Any]]:
        asked: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                asked.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        running.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=running[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_address[1]}", asked

    yield start
    for each in running:
        each.shutdown()
        each.server_close()


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (200, b"<html>", rw.ClientError, "unexpected-reply"),
        (200, b"{}", rw.ClientError, "unexpected-reply"),
        (200, b"[1]", rw.ClientError, "unexpected-reply"),
        (404, b"<html>", rw.ClientError, "unexpected-reply"),
        (502, b"", rw.ClientError, "unexpected-reply"),
        (503, b'{"error":"m","code":"overloaded"}', rw.Unavailable, "overloaded"),
        (500, b'{"error":"m","code":"internal"}', rw.ClientError, "internal"),
        (500, b'{"error":"m","code":"model-fault"}', rw.ModelFault, "model-fault"),
        (401, b'{"error":"m","code":"unauthenticated"}', rw.Unauthenticated, "unauthenticated"),
        (418, b'{"error":"m","code":"other"}', rw.ClientError, "other"),
    ],
)
def test_every_reply_has_its_error(server: Any, status: int, body: bytes, kind: type[rw.RoadworthyError], code: str) -> None:
    """Each kind of reply becomes one class of error, and no request is sent twice."""
    url, asked = server(status, body, **{"retry-after": "3"})
    with Client(url, key="k") as client, pytest.raises(kind) as caught:
        client.predict("e", [1])
    assert (type(caught.value), caught.value.code) == (kind, code)
    if kind is rw.Unavailable:
        assert caught.value.retry_after_s == 3
    assert len(asked) == 1


def test_a_redirect_is_not_followed(server: Any) -> None:
    """The key is never carried to an address that a server names."""
    other, asked_other = server(200, b"{}")
    url, _ = server(307, b"", location=f"{other}/v1/models/e:predict")
    with Client(url, key="k") as client, pytest.raises(rw.ClientError):
        client.predict("e", [1])
    assert asked_other == []


def test_push_streams_the_file_and_tells_how_far_it_is(server: Any, tmp_path: Any) -> None:
    """The body is the file with its length; progress ends at all of it; the digest travels as a parameter."""
    url, asked = server(201, json.dumps(VERSION).encode())
    path = tmp_path / "m.rw"
    path.write_bytes(bytes(range(256)) * 3000)
    seen: list[tuple[int, int]] = []
    with Client(control_url=url, key="k") as client:
        assert client.push(path, allow_code="sha256:x", progress=lambda sent, total: seen.append((sent, total))).version == 1
    method, target, headers, body = asked[0]
    assert (method, target) == ("POST", "/api/v1/packages?allow_code=sha256%3Ax")
    assert headers["Authorization"] == "Bearer k"
    assert body == path.read_bytes()
    assert seen[-1] == (768_000, 768_000)


def test_lists_follow_the_pages(server: Any) -> None:
    """Items of the last page end the list."""
    url, asked = server(200, b'{"items":[{"name":"m","versions":2,"latest":2}],"next":null}')
    with Client(control_url=url) as client:
        assert client.models() == [Model(name="m", versions=2, latest=2)]
    assert [path for _, path, _, _ in asked] == ["/api/v1/models"]


def test_a_prediction_tells_what_stood_in(server: Any) -> None:
    """A fallback and a cache say so in headers; without them both are empty."""
    header = 'static; reason="circuit-open"'
    url, _ = server(200, b'{"predictions": [0]}', **{"Roadworthy-Fallback": header, "Cache-Status": "roadworthy; hit; ttl=3"})
    plain, _ = server(200, b'{"predictions": [0]}')
    with Client(url) as client, Client(plain) as other:
        found, usual = client.predict("e", [[1]]), other.predict("e", [[1]])
    assert (found.fallback, found.cache_status) == (header, "roadworthy; hit; ttl=3")
    assert (usual.fallback, usual.cache_status) == ("", "")
