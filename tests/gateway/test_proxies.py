"""G13: the gateway behind a real nginx, with nginx's own defaults and with the configuration of docs/proxies.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.gateway.http.health import PROBES
from tests.nginx_servers import RealNginx
from tests.waiting import DEADLINE_S, NO_TLS

PAGE = Path(__file__).parents[2] / "docs" / "proxies.md"
NAME = "models.example"
PATHS = sorted(path.decode() for path in PROBES)
LARGE = json.dumps({"instances": [[1.0, 2.0, 3.0]] * 100_000}).encode()

Behind = Callable[[str], httpx.Client]


@pytest.fixture(scope="module")
def worker(start_worker: Any, make_plan: Any) -> Any:
    """A worker that also accepts the name models.example."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    hosts = ["127.0.0.1", "localhost", "[::1]", NAME]
    return start_worker(plan, allowed_hosts=hosts).wait_ready()


@pytest.fixture
def behind(worker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """Starts nginx with the content of its `http` block, GATEWAY being the worker; returns a client that calls it by name."""
    open_: list[Any] = []

    def start(inside: str) -> httpx.Client:
        address = f"127.0.0.1:{worker.port}"
        server = RealNginx(tmp_path_factory.mktemp("nginx"), inside.replace("GATEWAY", address))
        open_.append(server)
        client = httpx.Client(base_url=server.start().url, headers={"Host": NAME}, timeout=DEADLINE_S, verify=NO_TLS)
        open_.append(client)
        return client

    yield start
    for each in reversed(open_):
        each.close()


def predict(client: httpx.Client, content: bytes = b'{"instances": [[1, 2, 3]]}', **headers: str) -> httpx.Response:
    """Call the endpoint once."""
    sent = {"Content-Type": "application/json", **headers}
    return client.post("/v1/models/sum:predict", content=content, headers=sent)


def ours() -> str:
    """The page's configuration, for the tests' ports."""
    (text,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "127.0.0.1:8080" in text
    assert "listen 80;" in text
    return str(text.replace("127.0.0.1:8080", "GATEWAY").replace("listen 80;", "listen 127.0.0.1:PORT;"))


def test_g13_nginx_with_its_defaults(behind: Behind) -> None:
    """It calls in HTTP/1.0, by the worker's address, with a connection per request: predictions and probes are answered."""
    client = behind("server { listen 127.0.0.1:PORT; location / { proxy_pass http://GATEWAY; } }")
    for _ in range(3):
        assert predict(client).json() == {"predictions": [6.0]}
    assert predict(client, b"{").json()["code"] == "malformed-json"
    assert [client.get(path).status_code for path in PATHS] == [200] * 4
    assert predict(client, LARGE).status_code == 413  # nginx's own bound, of 1 MiB


def test_g13_a_name_that_nginx_made_up(behind: Behind) -> None:
    """By default it calls by the name of its own upstream block: probes are answered, and the refusal names the setting."""
    client = behind(
        "upstream some_gateways { server GATEWAY; }"
        "server { listen 127.0.0.1:PORT; location / { proxy_pass http://some_gateways; } }"
    )
    assert [client.get(path).status_code for path in PATHS] == [200] * 4
    refused = predict(client)
    assert (refused.status_code, refused.json()["code"]) == (400, "host-not-allowed")
    assert "ROADWORTHY_GATEWAY_ALLOWED_HOSTS" in refused.json()["hint"]


def test_g13_nginx_as_the_page_has_it(behind: Behind) -> None:
    """By the public name, over kept connections, with bodies of any form up to the endpoint's limit."""
    client = behind(ours())
    for _ in range(20):
        reply = predict(client, **{"X-Request-Id": "mine-1"})
        assert reply.json() == {"predictions": [6.0]}
        assert reply.headers["x-request-id"] == "mine-1"
    assert [client.get(path).status_code for path in PATHS] == [200] * 4
    assert "connection" not in client.get("/v1/models").headers or client.get("/v1/models").headers["connection"] == "keep-alive"
    parts = (LARGE[start : start + 100_000] for start in range(0, len(LARGE), 100_000))
    for large in (LARGE, parts):
        reply = client.post("/v1/models/sum:predict", content=large, headers={"Content-Type": "application/json"})
        assert (reply.status_code, reply.json()["code"]) == (413, "too-many-rows"), reply.text
    rows = json.dumps({"instances": [[1.0, 2.0, 3.0]] * 5_000}).encode()
    assert predict(client, rows).json() == {"predictions": [6.0] * 5_000}
    unknown = client.post("/v1/models/other:predict", json={})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown-endpoint")
