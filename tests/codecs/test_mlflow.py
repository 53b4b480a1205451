"""MLflow's scoring protocol: what its bodies mean, how it names endpoints, and MLflow's own clients against a worker."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from typing import Any

import pytest

from roadworthy.codecs.codec import Decoded
from roadworthy.codecs.mlflow import PROTOCOL, _no_params
from roadworthy.codecs.reading.bounds import FAST_BYTES, NeedsReader
from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import KeyEntry
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import encode_rows
from roadworthy.schema.signature import Field, Signature
from tests.foreign import Foreign, foreign
from tests.waiting import eventually

JSON = {b"content-type": b"application/json"}
FIELDS = (
    Field("x", DType.FLOAT64, nullable=True),
    Field("n", DType.INT64),
    Field("at", DType.TIMESTAMP, nullable=True),
)
SIGNATURE = Signature(FIELDS, FIELDS)
ROWS = [{"x": 0.5, "n": 1, "at": None}, {"x": None, "n": 2, "at": "2024-03-31T02:00:00.000000Z"}]
VALUES = [[0.5, 1, None], [None, 2, "2024-03-31T02:00:00Z"]]
COLUMNS = {"n": [1, 2], "x": [0.5, None], "at": [None, "2024-03-31T02:00:00Z"]}


def read(body: Any, signature: Signature = SIGNATURE, policy: Policy | None = None) -> list[Any]:
    """The rows that a body has."""
    protocol = PROTOCOL.bind("e", signature, policy or Policy()).choose(JSON)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return encode_rows(protocol.decode(JSON, data).batch)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["x", "n", "at"], "index": [7, 8], "data": VALUES}},
        {"dataframe_split": {"columns": ["at", "x", "n"], "data": [[row[2], row[0], row[1]] for row in VALUES]}},
        {"dataframe_split": {"data": VALUES}},
        {"dataframe_split": {"columns": [0, 1, 2], "data": VALUES}},
        {"dataframe_records": ROWS},
        {"instances": ROWS},
        {"instances": VALUES, "params": {}},
        {"inputs": VALUES, "params": None},
        {"inputs": ROWS},
        {"inputs": COLUMNS},
        b'{"dataframe_split": {"columns": ["x", "n", "at"], "data": [[0.5, 1, "NaT"], [NaN, 2, "2024-03-31T02:00:00"]]}}',
        b'{"dataframe_split": {"columns": [0, 1, 2], "data": [[0.5, 1, "NaT"], [NaN, 2, "2024-03-31T02:00:00"]]}}',
        b'{"instances": [[0.5, 1, "NaT"], [NaN, 2, "2024-03-31T02:00:00"]]}',
        b'{"dataframe_records": [{"x": 0.5, "n": 1, "at": "NaT"}, {"x": NaN, "n": 2, "at": "2024-03-31T02:00:00"}]}',
    ],
)
def test_every_form_means_the_same_rows(body: Any) -> None:
    """NaN and NaT, as MLflow's client writes missing values of a DataFrame, are nulls."""
    assert read(body) == ROWS


@pytest.mark.parametrize("row", ["NaT", ["NaT"], {"at": "NaT"}])
def test_a_row_of_one_time_may_be_bare(row: Any) -> None:
    """NaT is null in a time alone: a text may be this one."""
    assert read({"instances": [row]}, Signature(FIELDS[2:], FIELDS[:1])) == [None]
    text = Field("at", DType.STRING, nullable=True)
    assert read({"instances": [row]}, Signature((text,), FIELDS[:1])) == ["NaT"]


NUMBERS = Signature(tuple(Field(name, DType.FLOAT64) for name in ("a b", "c")), FIELDS[:1])
PAIRS = [[0.5, 1], [2, -3e5]]
QUICK = (
    b'{"dataframe_split": {"columns": ["a b", "c"], "data": %b}}',
    b'{"dataframe_split":{"index":[0,10],"columns":["a b","c"],"data":%b} }\n',
    b'{"inputs": %b}',
    b'{"instances":%b}',
)


@pytest.mark.parametrize("form", QUICK)
def test_the_fast_reader_reads_the_same(form: bytes) -> None:
    """The usual bodies of plain numbers, and bodies that only look like them, mean what the exact reader says."""
    protocol: Any = PROTOCOL.bind("e", NUMBERS, Policy(max_rows=4)).choose(JSON)
    for rows in (PAIRS, PAIRS[:1], [[0.5, None]], [[0.5]], [], [["x", 1]], [{"a b": 0.5, "c": 1}], PAIRS * 3):
        for body in (form % json.dumps(rows).encode(), (form % json.dumps(rows).encode()).replace(b"}", b', "c": 1}', 1)):
            found = []
            for decode in (protocol.decode, lambda headers, body: Decoded(protocol._read_exactly(body)[0])):
                try:
                    found.append(encode_rows(decode(JSON, body).batch))
                except InvalidRequest as error:
                    found.append(error.code)
            assert found[0] == found[1], body
    assert protocol._read_fast(form % json.dumps(PAIRS).encode()) is not None


def test_tables_are_made_with_the_first_request() -> None:
    """Binding an endpoint holds the event loop at every change of it; few endpoints are asked in this protocol."""
    bound = PROTOCOL.bind("e", SIGNATURE, Policy(), on_loop=True)
    assert "unchosen" not in vars(bound)
    assert bound.choose(JSON) is bound.choose(JSON) is bound.unchosen


LONG = b'{"dataframe_split":{"index":[%b0],"columns":["a b",%b"c"],"data":[[1,2]]}}'
ROOM = FAST_BYTES - 99


@pytest.mark.parametrize(
    ("index", "columns"),
    [(b"0," * (ROOM // 2), b""), (b"0 " * (ROOM // 2), b""), (b",," * (ROOM // 2), b""), (b"", b'"q",' * (ROOM // 4))],
    ids=["numbers", "no commas", "no numbers", "names"],
)
def test_a_long_index_or_list_of_names_takes_no_memory_on_the_event_loop(index: bytes, columns: bytes) -> None:
    """A pattern with a state for each number takes 120 times the body, and holds the loop meanwhile. Memory, unlike time, is the
    same on each machine: what is left is a copy of the index."""
    body = LONG % (index, columns)
    protocol: Any = PROTOCOL.bind("e", NUMBERS, Policy(), on_loop=True).choose(JSON)
    tracemalloc.start()
    try:
        if index.startswith(b"0,"):
            assert encode_rows(protocol.decode(JSON, body).batch) == [{"a b": 1.0, "c": 2.0}]
        else:
            with pytest.raises(NeedsReader):
                protocol.decode(JSON, body)
        assert tracemalloc.get_traced_memory()[1] < 3 * FAST_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty-body"),
        ([VALUES], "malformed-request"),
        ({}, "malformed-request"),
        ({"instances": VALUES, "inputs": VALUES}, "malformed-request"),
        ({"instances": VALUES, "signature_name": "a"}, "malformed-request"),
        ({"instances": {"x": [1]}}, "malformed-request"),
        ({"inputs": {"x": 1, "n": 2, "at": None}}, "malformed-request"),
        ({"inputs": {"x": [0.5], "n": [1, 2], "at": [None]}}, "wrong-shape"),
        ({"inputs": {}}, "missing-columns"),
        ({"inputs": {"x": [], "n": [], "at": []}}, "empty-batch"),
        ({"inputs": {**COLUMNS, "more": [1, 2]}}, "unknown-columns"),
        ({"dataframe_split": {"columns": ["x", "n", "at"]}}, "malformed-request"),
        ({"dataframe_split": {"columns": ["x", "x", "at"], "data": VALUES}}, "malformed-request"),
        ({"dataframe_split": {"columns": ["x", "n"], "data": VALUES}}, "malformed-request"),
        ({"dataframe_split": {"columns": ["x", "n", "at"], "data": [], "more": 1}}, "malformed-request"),
        ({"dataframe_split": {"columns": ["x", "n", "at"], "data": []}}, "empty-batch"),
        ({"dataframe_records": ROWS * 3}, "too-many-rows"),
        ({"inputs": {name: values * 3 for name, values in COLUMNS.items()}}, "too-many-rows"),
        ({"instances": VALUES, "params": {"temperature": 1}}, "params-not-supported"),
        ({"instances": [[0.5, 1.5, None]]}, "wrong-type"),
        (b'{"instances": [[1e999, 1, null]]}', "malformed-json"),
        (b'{"instances": [[0.5, NaN, null]]}', "null-not-allowed"),
    ],
)
def test_bad_bodies_have_one_clear_answer(body: Any, code: str) -> None:
    """Each with its stable code."""
    with pytest.raises(InvalidRequest) as caught:
        read(body, policy=Policy(max_rows=4))
    assert caught.value.code == code, caught.value


def test_as_many_columns_as_rows_allow() -> None:
    """A wide table by column is within the bounds that its rows set, a body with more is not read."""
    fields = tuple(Field(f"c{number}", DType.FLOAT64) for number in range(300))
    signature = Signature(fields, fields[:1])
    columns = {field.name: [0.25] * 40 for field in fields}
    assert len(read({"inputs": columns}, signature, Policy(max_rows=40))) == 40
    with pytest.raises(InvalidRequest) as caught:
        read(b'{"inputs": [' + b"[]," * 100_000 + b"[]]}", signature, Policy(max_rows=40))
    assert caught.value.code in ("too-many-values", "too-many-rows")


@pytest.fixture(scope="module")
def one(start_worker: Any, make_plan: Any) -> Any:
    """A worker with one endpoint and no keys."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    return start_worker(plan).wait_ready()


KEY = "rw_test"


@pytest.fixture(scope="module")
def two(start_worker: Any, make_plan: Any) -> Any:
    """A worker with two endpoints, whose callers need a key."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    plan.endpoint("other", [plan.package(2)])
    keys = (KeyEntry("k", hashlib.sha256(KEY.encode()).hexdigest(), "predictor", None),)
    return start_worker(plan, snapshot=plan.snapshot(keys=keys)).wait_ready()


def test_csv_and_long_bodies(one: Any) -> None:
    """CSV is read as on `:predict`; a long body by a reading process."""
    reply = one.client.post("/invocations", content=b"c,a,b\n1,2,3\n", headers={"content-type": "text/csv; charset=utf-8"})
    assert reply.json() == {"predictions": [6.0]}
    rows = [[number, 0.25, 1] for number in range(5_000)]
    reply = one.client.post("/endpoints/sum/invocations", json={"dataframe_split": {"columns": ["a", "b", "c"], "data": rows}})
    assert reply.json() == {"predictions": [sum(row) for row in rows]}, reply.text


def test_probes_and_errors(one: Any) -> None:
    """As MLflow's clients and the platforms around it read them."""
    for path in ("/ping", "/health"):
        reply = one.client.get(path, headers={"host": "10.1.2.3"})
        assert (reply.status_code, reply.content) == (200, b"\n")
    reply = one.client.post("/invocations", json={"inputs": "x"})
    assert (reply.status_code, reply.json()["error_code"], reply.json()["code"]) == (400, "BAD_REQUEST", "malformed-request")
    assert reply.json()["message"] == reply.json()["error"]
    reply = one.client.post("/invocations", content=b"x", headers={"content-type": "text/plain"})
    assert (reply.status_code, reply.json()["error_code"]) == (415, "BAD_REQUEST")
    reply = one.client.post("/endpoints/absent/invocations", json={})
    assert (reply.status_code, reply.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert (reply.json()["code"], reply.json()["message"]) == ("unknown-endpoint", reply.json()["error"])
    assert "error_code" not in one.client.post("/v1/models/absent:predict", json={}).json()


def test_errors_before_the_endpoint_can_answer(start_worker: Any, make_plan: Any) -> None:
    """MLflow's keys are in the errors of paths that an endpoint has only later, and of an endpoint whose package is not there."""
    plan = make_plan()
    plan.endpoint("late", [plan.package(1, "held")])
    worker = start_worker(plan)
    eventually(lambda: "not-ready" not in worker.client.post("/late", json={}).text, "the worker has the endpoints")
    for path in ("/invocations", "/endpoints/late/invocations"):
        reply = worker.client.post(path, json={})
        assert (reply.status_code, reply.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE"), reply.text


def test_several_endpoints_are_named(two: Any) -> None:
    """The path without a name exists only with one endpoint; the refusal says which path to use."""
    bearer = {"authorization": f"Bearer {KEY}"}
    reply = two.client.post("/invocations", json={}, headers=bearer)
    assert (reply.status_code, reply.json()["code"]) == (404, "endpoint-not-named")
    assert reply.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    assert "/endpoints/{endpoint}/invocations" in reply.json()["hint"]
    assert two.client.post("/invocations", json={}).json()["error_code"] == "UNAUTHENTICATED"
    assert two.client.get("/version").status_code == 401
    assert two.client.get("/ping").status_code == 200


def test_params_are_refused_with_what_the_model_takes() -> None:
    """The error names them, bounded, and says which of them is a column."""
    with pytest.raises(InvalidRequest) as caught:
        read({"instances": VALUES, "params": {"temperature": 1, "x": 2}})
    assert "got 'temperature', 'x'" in caught.value.message
    assert (caught.value.hint or "").startswith("send 'x' as a column")
    with pytest.raises(InvalidRequest) as caught:
        read({"instances": VALUES, "params": {f"p{n}" * 100: n for n in range(1_000)}})
    assert len(caught.value.message) < 300
    with pytest.raises(InvalidRequest, match="no object"):
        read({"instances": VALUES, "params": [1]})


def test_each_param_is_looked_up_once() -> None:
    """Not compared with every column: both may be many, and a reader process would take seconds."""

    class Columns(list[str]):
        def __contains__(self, name: object) -> bool:
            raise AssertionError(f"{name} is compared with every column")

    assert (_no_params(["y", "x"], Columns(["x"])).hint or "").startswith("send 'x' as a column")


def test_a_setting_names_the_endpoint_of_paths_without_a_name(start_worker: Any, make_plan: Any) -> None:
    """It answers among several, and no other endpoint does so in its place."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    plan.endpoint("other", [plan.package(2)])
    worker = start_worker(plan, default_endpoint="sum").wait_ready()
    ask = {"instances": [[1, 2, 3]]}
    assert worker.client.post("/invocations", json=ask).json() == {"predictions": [6.0]}
    alone = make_plan()
    alone.endpoint("other", [alone.package(2)])
    reply = start_worker(alone, default_endpoint="sum").wait_ready().client.post("/invocations", json=ask)
    assert (reply.status_code, reply.json()["code"]) == (404, "endpoint-not-named")
    assert "the default endpoint is not on this gateway" in reply.json()["error"]


@pytest.fixture(scope="module")
def mlflow() -> Foreign:
    """An environment with MLflow's clients."""
    return foreign("mlflow-skinny==3.17.2", "pandas", "scipy")  # its client looks for scipy.sparse


SCORING = """
import json, sys
import numpy as np, pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
client = ScoringServerClient("127.0.0.1", sys.argv[1])
client.wait_server_ready()
frame = pd.DataFrame({"b": [1, 2], "a": [0.5, 1.5], "c": [2.0, 3.0]}, index=["r", "s"])
answers = [client.invoke(data).get_predictions()[0].tolist() for data in (frame, frame[["a", "b", "c"]].to_numpy(), [[1, 2, 3]])]
try:
    client.invoke(frame[["a"]])
    refused = None
except Exception as error:
    refused = str(error)
print(json.dumps([client.get_version(), answers, refused]))
"""


def test_mlflows_scoring_client(one: Any, mlflow: Foreign) -> None:
    """A DataFrame, an array and a list; a refusal as the client shows it."""
    version, answers, refused = mlflow.run(SCORING, one.port)
    assert version
    assert answers == [[3.5, 6.5], [3.5, 6.5], [6.0]]
    assert "error code 422" in refused
    assert "missing-columns" in refused


DEPLOYMENTS = """
import json, os, sys
os.environ["MLFLOW_TRACKING_TOKEN"] = sys.argv[2]
from mlflow.deployments import get_deploy_client
client = get_deploy_client(f"http://127.0.0.1:{sys.argv[1]}")
print(json.dumps(client.predict(endpoint="sum", inputs={"dataframe_records": [{"a": 1, "b": 2, "c": 3.5}]})))
"""


def test_mlflows_deployments_client(two: Any, mlflow: Foreign) -> None:
    """It names the endpoint, and sends its token as the key."""
    assert mlflow.run(DEPLOYMENTS, two.port, KEY) == {"predictions": [6.5]}
