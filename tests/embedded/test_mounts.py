"""Embedded endpoints mounted in real ASGI and WSGI applications: the gateway's routes below a prefix, without its socket."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import flask
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client as WerkzeugClient

import roadworthy as rw
from roadworthy.embedded import mounts
from tests.waiting import NO_TLS, eventually, soon

ROW = {"age": 31.0, "income": 42_000.0}
BODY = {"instances": [ROW]}


@pytest.fixture(scope="module")
def endpoints(credit: rw.Package, chat: rw.Package) -> Iterator[tuple[rw.EmbeddedEndpoint, rw.EmbeddedEndpoint]]:
    """A model that answers at once, and one that answers in parts."""
    with (
        rw.serve_in_process("credit", package=credit.path, policy={"max_body_bytes": 100_000}) as one,
        rw.serve_in_process("chat", package=chat.path, allow_code=chat.digest) as other,
    ):
        yield one, other


@contextlib.contextmanager
def serving(app: Any) -> Iterator[httpx.Client]:
    """A client of the application, which uvicorn serves in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started, "a server")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=NO_TLS, timeout=120.0) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def asgi(endpoints: tuple[rw.EmbeddedEndpoint, ...]) -> Iterator[httpx.Client]:
    """A FastAPI application with a route of its own, and a mount."""
    app = FastAPI()
    app.mount("/models", rw.asgi_app(*endpoints))

    @app.get("/own")
    async def own() -> dict[str, Any]:
        return {"predictions": (await endpoints[0].predict_async(ROW)).predictions}

    with serving(app) as client:
        yield client


@pytest.fixture(scope="module")
def wsgi(endpoints: tuple[rw.EmbeddedEndpoint, ...]) -> Iterator[httpx.Client]:
    """A Flask application with a route of its own, and a mount."""
    app = flask.Flask("app")

    @app.get("/own")
    def own() -> dict[str, Any]:
        return {"predictions": endpoints[0].predict(ROW).predictions}

    mounted = DispatcherMiddleware(app, {"/models": rw.wsgi_app(*endpoints)})
    with httpx.Client(transport=httpx.WSGITransport(app=mounted), base_url="http://here") as client:
        yield client


@pytest.fixture(params=["asgi", "wsgi"])
def client(request: pytest.FixtureRequest) -> Any:
    """Each of both."""
    return request.getfixturevalue(request.param)


def ask(client: Any, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """A JSON request below the mount."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is None:
        return client.request(method, f"/models{path}", headers=sent)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.request(method, f"/models{path}", content=content, headers={"content-type": "application/json", **sent})


def test_the_application_keeps_its_own_routes(client: Any) -> None:
    """A view of the application calls the endpoint itself."""
    assert client.request("GET", "/own").json() == {"predictions": pytest.approx([62.0])}


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/v1/models/credit:predict", BODY, "predictions"),
        ("/v2/models/credit/infer", {"inputs": [
            {"name": "age", "shape": [1], "datatype": "FP64", "data": [31.0]},
            {"name": "income", "shape": [1], "datatype": "FP64", "data": [42_000.0]},
        ]}, "outputs"),
        ("/endpoints/credit/invocations", {"dataframe_records": [ROW]}, "predictions"),
    ],
    ids=["v1", "v2", "mlflow"],
)  # fmt: skip
def test_every_protocol_answers(client: Any, path: str, body: Any, key: str) -> None:
    """The same routes as the gateway's, with the headers that name version and prediction."""
    reply = ask(client, "POST", path, body, x_request_id="mine")
    assert reply.status_code == 200, reply.content
    assert "62" in json.dumps(reply.json()[key]) or "61.99" in json.dumps(reply.json()[key])
    assert reply.headers["roadworthy-version"] == "credit:1"
    assert reply.headers["x-request-id"] == "mine"
    assert len(reply.headers["roadworthy-prediction-id"]) == 32
    assert int(reply.headers["content-length"]) == len(reply.content)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/models/credit:predict", b"{", 400, "malformed-json"),
        ("POST", "/v1/models/credit:predict", {"instances": [{"age": "x"}]}, 422, None),
        ("POST", "/v1/models/credit:predict", b"[" + b" " * 200_000, 413, "body-too-large"),
        ("POST", "/v1/models/none:predict", BODY, 404, "unknown-endpoint"),
        ("GET", "/nothing", None, 404, "unknown-path"),
        ("DELETE", "/v1/models", None, 405, "method-not-allowed"),
    ],
)
def test_what_is_wrong_gets_the_gateways_problem(
    client: Any, method: str, path: str, body: Any, status: int, code: str | None
) -> None:
    """Status and code are those of the gateway."""
    reply = ask(client, method, path, body)
    assert reply.status_code == status, reply.content
    assert code in (None, reply.json()["code"])


def test_documents_and_pages_name_the_prefix(client: Any) -> None:
    """OpenAPI's server is the mount; `/` leads to pages with relative links; both endpoints are listed."""
    document = ask(client, "GET", "/v1/models/credit/openapi.json").json()
    assert document["servers"] == [{"url": "/models"}]
    assert "/v1/models/credit:predict" in document["paths"]
    assert ask(client, "GET", "/v1/models").json() == {"models": ["chat", "credit"]}
    assert ask(client, "GET", "/readyz").json()["ready"]
    front = ask(client, "GET", "/", accept="text/html").content
    assert b'href="docs"' in front
    page = ask(client, "GET", "/docs")
    assert page.status_code == 200
    assert b'get("v1/models")' in page.content
    assert ask(client, "HEAD", "/docs").content == b""
    assert ask(client, "GET", "/v2/models/credit/stats").status_code == 200


def test_the_mount_itself_leads_to_its_root(wsgi: httpx.Client) -> None:
    """Without the last slash the relative links of the page would be wrong."""
    reply = ask(wsgi, "GET", "")
    assert (reply.status_code, reply.headers["location"]) == (307, "/models/")


def test_parts_are_sent_as_events(client: Any, endpoints: tuple[rw.EmbeddedEndpoint, ...]) -> None:
    """A stream of server-sent events, ended by its last event; collected for others."""
    events = ask(client, "POST", "/v1/models/chat:predict", {"instances": ["one two"]}, accept="text/event-stream")
    assert events.headers["content-type"].startswith("text/event-stream")
    text = events.content.decode()
    assert [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")] == [
        {"predictions": ["one"]},
        {"predictions": ["two"]},
        {"parts": 2},
    ]
    whole = ask(client, "POST", "/v1/models/chat:predict", {"instances": ["one two"]})
    assert whole.json() == {"predictions": ["one", "two"]}
    assert endpoints[1].status().calls == 0


def test_a_caller_that_leaves_ends_its_stream(endpoints: tuple[rw.EmbeddedEndpoint, ...]) -> None:
    """An endless stream is freed: over ASGI by `http.disconnect`, over WSGI by `close`."""
    body = json.dumps({"instances": ["forever"]}).encode()
    asyncio.run(_leave(rw.asgi_app(endpoints[1]), body))
    eventually(lambda: endpoints[1].status().calls == 0, "no call in progress")
    client = WerkzeugClient(rw.wsgi_app(endpoints[1]))
    headers = {"accept": "text/event-stream", "content-type": "application/json"}
    reply = client.post("/v1/models/chat:predict", data=body, headers=headers, buffered=False)
    assert b"0" in next(reply.iter_encoded())
    reply.close()
    eventually(lambda: endpoints[1].status().calls == 0, "no call in progress")


def test_a_silent_stream_gets_comments(endpoints: tuple[rw.EmbeddedEndpoint, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two parts of a slow model; that is how a WSGI server learns that its caller is gone."""
    monkeypatch.setattr(mounts, "_COMMENT_S", 0.0)
    client = WerkzeugClient(rw.wsgi_app(endpoints[1]))
    headers = {"accept": "text/event-stream", "content-type": "application/json"}
    reply = client.post("/v1/models/chat:predict", data=b'{"instances": ["slowly"]}', headers=headers, buffered=False)
    assert any(piece.startswith(b":") for piece in itertools.islice(reply.iter_encoded(), 20))
    reply.close()
    eventually(lambda: endpoints[1].status().calls == 0, "no call in progress")


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"REQUEST_METHOD": "GET", "PATH_INFO": "/readyz"}, "200 OK"),
        ({"REQUEST_METHOD": "GET", "PATH_INFO": "/v1/models"}, "200 OK"),
        ({"CONTENT_LENGTH": "9" * 5_000}, "413 Request Entity Too Large"),
        ({"CONTENT_LENGTH": "0" * 5_000 + "24"}, "200 OK"),
    ],
    ids=["probe", "no-host", "long-length", "many-zeros"],
)
def test_odd_heads_are_answered(endpoints: tuple[rw.EmbeddedEndpoint, ...], more: dict[str, Any], status: str) -> None:
    """HTTP/1.0 needs no Host; a length may have thousands of digits."""
    begun: list[Any] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/models/chat:predict",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "24",
        "wsgi.input": io.BytesIO(b'{"instances": ["a b c"]}'),
        **more,
    }
    body = b"".join(rw.wsgi_app(endpoints[1])(environ, lambda *head: begun.append(head)))
    assert begun[0][0] == status, body
    if environ["PATH_INFO"] == "/readyz":
        assert json.loads(body) == {"ready": True, "reason": None, "endpoints": 1, "missing": []}


async def _leave(app: Any, body: bytes) -> None:
    """Ask for a stream, and go away after its first piece."""
    left = asyncio.Event()
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            left.set()

    headers = [(b"accept", b"text/event-stream"), (b"host", b"here"), (b"content-type", b"application/json")]
    path = "/v1/models/chat:predict"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "root_path": "", "headers": headers}
    await app(scope, receive, send)


def test_a_loop_that_ends_frees_its_request(endpoints: tuple[rw.EmbeddedEndpoint, ...]) -> None:
    """The application's event loop may end in the middle of an answer; the next loop is served."""

    async def begin() -> None:
        task = asyncio.create_task(_leave_never(rw.asgi_app(endpoints[1])))
        await soon(lambda: endpoints[1].core().calls("chat"), "a call in progress")
        task.cancel()

    asyncio.run(begin())
    eventually(lambda: endpoints[1].status().calls == 0, "no call in progress")


async def _leave_never(app: Any) -> None:
    messages = [{"type": "http.request", "body": b'{"instances": ["forever"]}'}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        assert message

    headers = [(b"accept", b"text/event-stream"), (b"host", b"here"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/models/chat:predict", "headers": headers}
    await app(scope, receive, send)


def test_a_lifespan_and_a_web_socket_are_answered(endpoints: tuple[rw.EmbeddedEndpoint, ...]) -> None:
    """The application alone, as a server runs it: its lifespan leaves the endpoints open; a web socket is closed."""
    for _ in range(2):
        with serving(rw.asgi_app(endpoints[0])) as client:
            assert client.post("/v1/models/credit:predict", json=BODY).status_code == 200
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(rw.asgi_app(endpoints[0])({"type": "websocket"}, receive, send))
    assert sent == ["websocket.close"]


def test_a_closed_endpoint_answers_503(credit: rw.Package) -> None:
    """In a mount that outlives its endpoint."""
    endpoint = rw.serve_in_process("brief", package=credit.path)
    app = Starlette()
    app.mount("/models", rw.asgi_app(endpoint))
    wsgi_client = WerkzeugClient(rw.wsgi_app(endpoint))
    with serving(app) as client:
        assert client.post("/models/v1/models/brief:predict", json=BODY).status_code == 200
        endpoint.close()
        for reply in (
            client.post("/models/v1/models/brief:predict", json=BODY),
            wsgi_client.post("/v1/models/brief:predict", json=BODY),
        ):
            assert reply.status_code == 503
            assert "endpoint-closed" in reply.text


def test_django_serves_views_and_a_mount(endpoints: tuple[rw.EmbeddedEndpoint, ...]) -> None:
    """A view of Django asks the endpoint; its WSGI application has the mount next to it."""
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpRequest, JsonResponse
    from django.urls import path

    def own(request: HttpRequest) -> JsonResponse:
        return JsonResponse({"predictions": endpoints[0].predict(ROW).predictions, "method": request.method})

    urls = ModuleType("urls_of_the_test")
    urls.urlpatterns = [path("own", own)]  # type: ignore[attr-defined]  # a module of Django has it
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=urls, SECRET_KEY="test")
    django.setup()
    mounted = DispatcherMiddleware(get_wsgi_application(), {"/models": rw.wsgi_app(endpoints[0])})
    with httpx.Client(transport=httpx.WSGITransport(app=mounted), base_url="http://here") as client:
        assert client.get("/own").json() == {"predictions": pytest.approx([62.0]), "method": "GET"}
        assert ask(client, "POST", "/v1/models/credit:predict", BODY).json() == {"predictions": pytest.approx([62.0])}


def test_a_mount_of_nothing_is_refused() -> None:
    """At least one endpoint is needed."""
    for make in (rw.asgi_app, rw.wsgi_app):
        with pytest.raises(rw.InvalidRequest) as caught:
            make()
        assert caught.value.code == "no-endpoint"
