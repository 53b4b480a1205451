"""Rules for every request: ids, methods, paths, probes, the forms of replies and errors."""

from __future__ import annotations

import re
from typing import Any

import pytest

from roadworthy.contract.policy import Policy
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from tests.waiting import DEADLINE_S

TWO = Signature(
    (Field("x", DType.FLOAT64, (3,)),),
    (Field("total", DType.FLOAT64),),
    Container.ARRAY,
)


@pytest.fixture(scope="module")
def worker(start_worker: Any, make_plan: Any) -> Any:
    """A worker with one plain endpoint, one of tensors, and one over two versions."""
    plan = make_plan()
    plan.package(1)
    plan.package(2)
    plan.endpoint("sum", [plan.packages[0].digest])
    plan.endpoint("both", [package.digest for package in plan.packages])
    plan.endpoint("vector", [plan.package(3, signature=TWO)], Policy(record=False))
    return start_worker(plan).wait_ready()


def test_a_prediction_names_the_version_that_answered(worker: Any) -> None:
    """The reply has the answer, ids, version, digest and runtime."""
    reply = worker.predict("sum", [[1, 2, 3], {"a": 1, "b": 1, "c": 1}][:1])
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {"predictions": [6.0]}
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["roadworthy-prediction-id"])
    assert reply.headers["roadworthy-version"] == "m:1"
    assert reply.headers["roadworthy-digest"] == "sha256:" + "0" * 63 + "1"
    assert reply.headers["roadworthy-runtime"] == "planted"
    assert "server" not in reply.headers
    assert "date" in reply.headers


def test_rows_as_lists_objects_and_tensors(worker: Any) -> None:
    """Each form of row gives the same answers, in order."""
    assert worker.predict("sum", [[1, 2, 3], [4, 5, 6]]).json() == {"predictions": [6.0, 15.0]}
    rows = [{"c": 3, "a": 1, "b": 2}, {"a": 4, "b": 5, "c": 6}]
    assert worker.predict("sum", rows).json() == {"predictions": [6.0, 15.0]}
    assert worker.predict("vector", [[1, 2, 3], [4, 5, 6]]).json() == {"predictions": [6.0, 15.0]}


def test_prediction_ids_grow(worker: Any) -> None:
    """No id occurs twice, and later ids are greater."""
    ids = [worker.predict("sum", [[1, 2, 3]]).headers["roadworthy-prediction-id"] for _ in range(5)]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("asked", ["a", "req-1.2_3~x:y/z+=@", "x" * 128])
def test_a_safe_request_id_is_kept(worker: Any, asked: str) -> None:
    """Answers and errors have the caller's id."""
    for rows in ([[1, 2, 3]], [[1]]):
        assert worker.predict("sum", rows, headers={"X-Request-Id": asked}).headers["x-request-id"] == asked


@pytest.mark.parametrize("asked", ["", "x" * 129, "a b", 'a"b', "a\tb", "é", "<script>"])
def test_an_unsafe_request_id_is_replaced(worker: Any, asked: str) -> None:
    """The reply has an id of the gateway instead."""
    reply = worker.predict("sum", [[1, 2, 3]], headers={"X-Request-Id": asked.encode()})
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["x-request-id"])


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/models/sum:predict", "POST"),
        ("DELETE", "/v1/models/sum", "GET"),
        ("POST", "/livez", "GET, HEAD"),
        ("PUT", "/v2/models/sum/infer", "POST"),
        ("TRACE", "/v1/models", "GET"),
    ],
)
def test_other_methods(worker: Any, method: str, path: str, allow: str) -> None:
    """The 405 reply names the allowed methods."""
    reply = worker.client.request(method, path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allow)
    assert reply.json()["code"] == "method-not-allowed"


def test_unknown_paths(worker: Any) -> None:
    """The 404 reply says whether the endpoint, its version or the path is unknown."""
    for path, code in (
        ("/v1/models/absent:predict", "unknown-endpoint"),
        ("/v2/models/absent/infer", "unknown-endpoint"),
        ("/v2/models/sum/versions/9/infer", "unknown-version"),
        ("/admin", "unknown-path"),
        ("/endpoints/absent/invocations", "unknown-endpoint"),
        ("/invocations", "endpoint-not-named"),
    ):
        reply = worker.client.post(path, json={})
        assert (reply.status_code, reply.json()["code"]) == (404, code)


def test_probes(worker: Any) -> None:
    """Probes answer GET and HEAD without a key."""
    for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert worker.client.get(path).status_code == 200
        head = worker.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
    assert worker.client.get("/readyz").json() == {"ready": True, "reason": None, "endpoints": 3, "missing": []}
    assert worker.client.get("/v2/health/ready").json() == {"ready": True, "live": True}


def test_what_is_served_is_described(worker: Any) -> None:
    """Lists and documents of both protocols."""
    get = worker.client.get
    assert get("/v1/models").json() == get("/v2/models").json() == {"models": ["both", "sum", "vector"]}
    document = get("/v1/models/both").json()
    assert (document["name"], document["ready"]) == ("both", True)
    assert [(each["version"], each["weight"]) for each in document["versions"]] == [("m:1", 5000), ("m:2", 5000)]
    assert [field["name"] for field in document["inputs"]] == ["a", "b", "c"]
    assert get("/v2").json()["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]
    metadata = get("/v2/models/vector").json()
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}]
    assert get("/v2/models/both/versions/2").json()["versions"] == ["2"]
    assert get("/v2/models/sum/ready").json() == {"name": "sum", "ready": True}


def test_a_split_is_shared_by_weight(worker: Any) -> None:
    """Two equal variants answer about half each; a versioned path always reaches its own version."""
    answered = [worker.predict("both", [[1, 2, 3]]).headers["roadworthy-version"] for _ in range(200)]
    assert 60 < answered.count("m:1") < 140
    inputs = [{"name": name, "shape": [1], "datatype": "FP64", "data": [1]} for name in "abc"]
    for number in (1, 2):
        reply = worker.client.post(f"/v2/models/both/versions/{number}/infer", json={"inputs": inputs})
        assert reply.headers["roadworthy-version"] == f"m:{number}"
        assert reply.json()["model_version"] == str(number)


def test_pipelined_requests_are_answered_in_order(worker: Any) -> None:
    """Two requests in one packet on one connection."""
    request = (
        b"POST /v1/models/sum:predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"X-Request-Id: %b\r\nContent-Length: 24\r\n\r\n" + b'{"instances": [[1,2,3]]}'
    )
    import socket

    with socket.create_connection(("127.0.0.1", worker.port), timeout=DEADLINE_S) as connection:
        connection.sendall(request % b"one" + request % b"two")
        reply = b""
        while reply.count(b'{"predictions":[6.0]}') < 2:
            part = connection.recv(65536)
            assert part
            reply += part
    assert reply.index(b"x-request-id: one") < reply.index(b"x-request-id: two")
