"""The V2 protocol over HTTP: JSON and raw tensors in both directions, spoken by hand and by the real client."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.codecs.open_inference_tensors import FieldReader
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from tests.waiting import eventually

MIXED = (
    Field("age", DType.INT64),
    Field("name", DType.STRING),
    Field("flag", DType.BOOL),
    Field("score", DType.FLOAT32, nullable=True),
    Field("kind", DType.STRING, categories=("red", "blue"), categorical=True),
    Field("when", DType.TIMESTAMP),
    Field("meta", DType.JSON),
    Field("grid", DType.FLOAT64, (2, -1)),
)
COLUMNS: dict[str, tuple[str, list[int], Any]] = {
    "age": ("INT64", [2], [1, 2**63 - 1]),
    "name": ("BYTES", [2, 1], ["ana", "žofie: 東京"]),
    "flag": ("BOOL", [2], [True, False]),
    "score": ("FP32", [2], [0.5, None]),
    "kind": ("BYTES", [2], ["red", "blue"]),
    "when": ("BYTES", [2], ["1970-01-01T00:00:00.000000Z", "2013-01-01T00:00:00.500000Z"]),
    "meta": ("BYTES", [2], ['{"k":[1,2]}', '"text"']),
    "grid": ("FP64", [2, 2, 3], [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12.5]]]),
}
NUMPY = {"INT64": "<i8", "BOOL": "?", "FP32": "<f4", "FP64": "<f8"}


@pytest.fixture(scope="module")
def worker(start_worker: Any, make_plan: Any) -> Any:
    """A worker that echoes rows of every type, and one that sums."""
    plan = make_plan()
    plan.endpoint("mixed", [plan.package(1, "echo", Signature(MIXED, MIXED, Container.RECORDS))])
    plan.endpoint("sum", [plan.package(2)])
    plain = Field("x", DType.FLOAT32, (3,))
    plan.endpoint("raw", [plan.package(3, "echo", Signature((plain,), (plain,), Container.ARRAY))])
    return start_worker(plan).wait_ready()


def head_of(**more: Any) -> dict[str, Any]:
    """A request with all columns as JSON."""
    inputs = [
        {"name": name, "shape": shape, "datatype": datatype, "data": data} for name, (datatype, shape, data) in COLUMNS.items()
    ]
    return {"inputs": inputs, **more}


def infer(worker: Any, document: Any, raw: bytes | None = None, endpoint: str = "mixed") -> Any:
    """POST a request; with `raw` by the binary extension."""
    head = json.dumps(document).encode()
    headers = {} if raw is None else {"Inference-Header-Content-Length": str(len(head))}
    return worker.client.post(f"/v2/models/{endpoint}/infer", content=head + (raw or b""), headers=headers)


def test_json_of_every_type_comes_back(worker: Any) -> None:
    """Each column nested or flat, in the shape [n] or [n, 1], exact to the last digit; the id is echoed."""
    reply = infer(worker, head_of(id="my:id"))
    assert reply.status_code == 200, reply.text
    document = reply.json()
    assert (document["model_name"], document["model_version"], document["id"]) == ("mixed", "1", "my:id")
    outputs = {output["name"]: output for output in document["outputs"]}
    assert list(outputs) == list(COLUMNS)
    for name, (datatype, shape, data) in COLUMNS.items():
        assert outputs[name]["datatype"] == datatype
        assert outputs[name]["shape"] == (shape if name == "grid" else [2])
        flat = [leaf for plane in data for line in plane for leaf in line] if name == "grid" else data
        assert outputs[name]["data"] == flat


LITERALS = [
    "1",
    "-2.5",
    "1e3",
    "true",
    "null",
    '"12"',
    "9007199254740993",
    "1e400",
    "[1]",
    "[]",
    "[[2,3],4]",
    "{}",
    "NaN",
    "01",
    "-1",
]


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64, DType.INT8, DType.UINT64, DType.INT64])
@given(changes=st.lists(st.tuples(st.integers(0, 2_999), st.sampled_from(LITERALS)), max_size=2), nested=st.booleans())
@settings(max_examples=60, deadline=None)
def test_large_json_data_is_read_as_exactly_as_small(dtype: DType, changes: list[tuple[int, str]], nested: bool) -> None:
    """A body that the reader of large tensors accepts gives the same values in the exact reader, which reads all others."""
    literals = [str(number % 100) for number in range(3_000)]
    for place, literal in changes:
        literals[place] = literal
    rows = [",".join(literals[start : start + 3]) for start in range(0, 3_000, 3)]
    data = ("[" + ",".join(f"[{row}]" if nested else row for row in rows) + "]").encode()
    found: list[Any] = []
    for large in (True, False):
        reader = FieldReader(Field("x", dtype, (3,)))
        if not large:
            reader._numbers = reader._flat = None
        try:
            found.append(reader.from_json(data, [1_000, 3])[0].tolist())
        except InvalidRequest as error:
            found.append((error.code, error.message))
    assert found[0] == found[1]


def raw_of(datatype: str, data: Any) -> bytes:
    """A column's bytes."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in data)
    return (
        np.array([np.nan if value is None else value for value in np.ravel(np.array(data, dtype=object))])
        .astype(NUMPY[datatype])
        .tobytes()
        if datatype == "FP32"
        else np.array(data, dtype=NUMPY[datatype]).tobytes()
    )


def test_raw_tensors_both_ways(worker: Any) -> None:
    """Every type as raw bytes; the answer's bytes are those of the request."""
    raws = [raw_of(datatype, data) for datatype, _, data in COLUMNS.values()]
    inputs = [
        {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}
        for (name, (datatype, shape, _)), raw in zip(COLUMNS.items(), raws, strict=True)
    ]
    reply = infer(worker, {"inputs": inputs, "parameters": {"binary_data_output": True}}, b"".join(raws))
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/octet-stream"
    length = int(reply.headers["inference-header-content-length"])
    document = json.loads(reply.content[:length])
    assert [output["parameters"]["binary_data_size"] for output in document["outputs"]] == [len(raw) for raw in raws]
    assert reply.content[length:] == b"".join(raws)


def test_outputs_are_chosen_one_by_one(worker: Any) -> None:
    """A subset, in the caller's order, each JSON or raw; one choice overrides the general one."""
    wanted = [{"name": "flag"}, {"name": "age", "parameters": {"binary_data": False}}]
    reply = infer(worker, head_of(outputs=wanted, parameters={"binary_data_output": True}))
    length = int(reply.headers["inference-header-content-length"])
    flag, age = json.loads(reply.content[:length])["outputs"]
    assert flag == {"name": "flag", "shape": [2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}}
    assert age["data"] == [1, 2**63 - 1]
    assert reply.content[length:] == b"\x01\x00"


def test_a_raw_body_of_the_only_input(worker: Any) -> None:
    """With a head length of 0 the body is the single input, and the answer is all binary."""
    raw = np.arange(6, dtype="<f4").tobytes()
    reply = worker.client.post("/v2/models/raw/infer", content=raw, headers={"Inference-Header-Content-Length": "0"})
    length = int(reply.headers["inference-header-content-length"])
    assert json.loads(reply.content[:length])["outputs"][0]["shape"] == [2, 3]
    assert reply.content[length:] == raw


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"inputs": []}, 422, "missing-columns"),
        ({"outputs": [{"name": "nothing"}]}, 400, "unknown-output"),
        ({"inputs": head_of()["inputs"] + [{"name": "z", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}, 422,
         "unknown-columns"),
        ({"inputs": head_of()["inputs"] + head_of()["inputs"][:1]}, 400, "duplicate-input"),
        ({"parameters": {"priority": {"deep": 1}}}, 400, "malformed-request"),
        ({"id": 7}, 400, "malformed-request"),
    ],
)  # fmt: skip
def test_requests_that_do_not_fit(worker: Any, change: dict[str, Any], status: int, code: str) -> None:
    """Each has its code, and the key `error` that V2 clients read."""
    reply = infer(worker, head_of() | change)
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert reply.json()["error"]


@pytest.mark.parametrize(
    ("name", "shape", "data", "status", "code"),
    [
        ("age", [2], [1, 2**63], 422, "out-of-range"),
        ("age", [2], [1, 1.5], 422, "wrong-type"),
        ("age", [2], [1, None], 422, "null-not-allowed"),
        ("age", [2], ["1", "2"], 422, "wrong-type"),
        ("when", [2], ["2013-01-01T00:00:00Z", 1], 422, "integer-for-timestamp"),
        ("when", [2], ["2013-01-01T00:00:00Z", "1364688000000"], 422, "wrong-type"),
        ("age", [2, 2], [1, 2, 3, 4], 422, "wrong-shape"),
        ("age", [3], [1, 2, 3], 422, "wrong-shape"),
        ("kind", [2], ["red", "green"], 422, "unknown-category"),
        ("meta", [2], ["{", "1"], 400, "malformed-json"),
        ("meta", [2], ["[NaN]", "1"], 422, "not-finite"),
        ("name", [2], ["a\0", "b"], 400, "invalid-text"),
        ("grid", [2, 3, 2], [0] * 12, 422, "wrong-shape"),
    ],
)
def test_tensors_that_do_not_fit(worker: Any, name: str, shape: list[int], data: list[Any], status: int, code: str) -> None:
    """One input that does not fit its field is refused."""
    document = head_of()
    for tensor in document["inputs"]:
        if tensor["name"] == name:
            tensor |= {"shape": shape, "data": data}
    reply = infer(worker, document)
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text


@pytest.mark.parametrize("length", ["-1", "99999999", "x", "1e3", "9" * 30, "2"])
def test_a_head_length_that_does_not_fit(worker: Any, length: str) -> None:
    """The header must fit the body."""
    reply = worker.client.post("/v2/models/raw/infer", content=b"{} 12", headers={"Inference-Header-Content-Length": length})
    assert reply.status_code == 400


def test_raw_texts_that_overrun(worker: Any) -> None:
    """Lengths inside of BYTES that reach beyond the tensor are refused."""
    for raw in (struct.pack("<I", 100) + b"abc", b"\xff\xff\xff\xff", b"abc", struct.pack("<I", 1) + b"\xff"):
        document = head_of()
        tensor = document["inputs"][1]
        del tensor["data"]
        tensor |= {"parameters": {"binary_data_size": len(raw)}}
        assert infer(worker, document, raw).status_code == 400


@pytest.fixture(scope="module")
def triton(worker: Any) -> Iterator[Any]:
    """The real client."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tritonclient.http as client
    connection = client.InferenceServerClient(f"127.0.0.1:{worker.port}")
    connection.tensors = client
    yield connection
    connection.close()


def test_tritonclient_asks(triton: Any) -> None:
    """Health and metadata as the real client reads them."""
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("mixed")
    assert triton.is_model_ready("mixed", "1")
    assert not triton.is_model_ready("mixed", "2")
    assert not triton.is_model_ready("absent")
    assert triton.get_server_metadata()["name"] == "roadworthy"
    metadata = triton.get_model_metadata("mixed")
    assert metadata["versions"] == ["1"]
    assert {tensor["name"]: tensor["shape"] for tensor in metadata["inputs"]}["grid"] == [-1, 2, -1]


def test_tritonclient_reads_configuration_statistics_and_index(triton: Any, worker: Any) -> None:
    """Of one version, one endpoint and the gateway, in Triton's shape."""
    assert worker.predict("sum", [[1, 2, 3], [4, 5, 6]]).status_code == 200
    assert worker.predict("sum", [["x", 2, 3]]).status_code == 422
    (version,) = triton.get_model_metadata("sum")["versions"]
    config = triton.get_model_config("sum", version)
    assert (config["name"], config["max_batch_size"]) == ("sum", Policy().max_rows)
    assert config["output"] == [{"name": "total", "data_type": "TYPE_FP64", "dims": []}]
    assert {each["name"]: each["data_type"] for each in triton.get_model_config("mixed")["input"]}["name"] == "TYPE_STRING"
    (found,) = triton.get_inference_statistics("sum", version)["model_stats"]
    assert (found["name"], found["version"]) == ("sum", version)
    assert found["inference_stats"]["success"]["count"] >= 1
    assert found["inference_stats"]["success"]["ns"] > 0
    assert found["inference_stats"]["fail"] == {"count": 0, "ns": 0}, "a refused request asks no version"
    assert found["inference_count"] >= 2
    assert triton.get_inference_statistics("sum")["model_stats"][0]["version"] == version
    names = {each["name"] for each in triton.get_inference_statistics()["model_stats"]}
    index = triton.get_model_repository_index()
    assert names == {each["name"] for each in index} >= {"sum", "mixed"}
    assert {"name": "sum", "version": version, "state": "READY", "reason": ""} in index


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"ready": 1}', b" " * 5_000])
def test_a_malformed_index_request_is_refused(worker: Any, body: bytes) -> None:
    """One clear answer for each."""
    reply = worker.client.post("/v2/repository/index", content=body)
    assert (reply.status_code, reply.json()["code"]) == (400, "malformed-request")


def test_the_index_has_what_is_not_loaded(start_worker: Any, make_plan: Any) -> None:
    """As unavailable; `ready` leaves it out."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    plan.endpoint("bad", [plan.package(2, "refused")])
    worker = start_worker(plan)
    eventually(lambda: worker.client.get("/readyz").json().get("missing") == ["bad"], "the rest is served")
    states = [(each["name"], each["state"]) for each in worker.client.post("/v2/repository/index").json()]
    assert states == [("sum", "READY"), ("bad", "UNAVAILABLE")]
    assert [each["name"] for each in worker.client.post("/v2/repository/index", json={"ready": True}).json()] == ["sum"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_tritonclient_infers(triton: Any, binary_in: bool, binary_out: bool | None) -> None:
    """Numbers and text through the real client, JSON or binary on either side, outputs named or not."""
    arrays = {
        "a": np.array([1.0, 4.0]), "b": np.array([2.0, 5.0]), "c": np.array([3.0, 6.5])
    }  # fmt: skip
    inputs = []
    for name, array in arrays.items():
        tensor = triton.tensors.InferInput(name, list(array.shape), "FP64")
        tensor.set_data_from_numpy(array, binary_data=binary_in)
        inputs.append(tensor)
    outputs = None if binary_out is None else [triton.tensors.InferRequestedOutput("total", binary_data=binary_out)]
    result = triton.infer("sum", inputs, outputs=outputs, request_id="r-1")
    assert result.as_numpy("total").tolist() == [6.0, 15.5]
    assert result.get_response()["id"] == "r-1"


def test_tritonclient_sends_text(triton: Any) -> None:
    """All types of the mixed endpoint, as the client makes them from numpy."""
    kinds = {"INT64": np.int64, "BOOL": np.bool_, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_}
    inputs = []
    for name, (datatype, shape, data) in COLUMNS.items():
        values = [0.0 if value is None else value for value in data] if name == "score" else data
        tensor = triton.tensors.InferInput(name, shape, datatype)
        tensor.set_data_from_numpy(np.array(values, dtype=kinds[datatype]).reshape(shape))
        inputs.append(tensor)
    result = triton.infer("mixed", inputs)
    assert [text.decode() for text in result.as_numpy("name")] == COLUMNS["name"][2]
    assert result.as_numpy("age").tolist() == COLUMNS["age"][2]
    assert result.as_numpy("grid").tolist() == COLUMNS["grid"][2]


def test_tritonclient_reads_errors(triton: Any) -> None:
    """A refusal arrives as the client's own exception with the gateway's message."""
    tensor = triton.tensors.InferInput("a", [1], "FP64")
    tensor.set_data_from_numpy(np.array([1.0]))
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="is missing"):
        triton.infer("sum", [tensor])
