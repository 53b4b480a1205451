"""The OpenAPI document of an endpoint, and the gateway's pages: valid, bounded, with golden rows that the endpoint answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from openapi_spec_validator import validate
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from roadworthy.client.streaming import EventReader
from roadworthy.codecs.openapi import MOST_COLUMNS, described, document
from roadworthy.codecs.predict_json import PredictJson
from roadworthy.codecs.protocol import protocols
from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import KeyEntry
from roadworthy.gateway.http import describe
from roadworthy.gateway.http.documents import Documents
from roadworthy.package.archive import open_package, unpack
from roadworthy.package.construct import construct
from roadworthy.package.packing.pack import pack
from roadworthy.runtime.runners.inline import InlineRunner
from roadworthy.schema.batch import Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_rows, encode_rows
from roadworthy.schema.signature import Field, Privacy, Signature
from roadworthy.serving.metrics import Bound, Totals
from tests.gateway.test_real_packages import COMMAND, place

MOST_BYTES = 1 << 20


def document_of(signature: Signature, golden: list[Any] | None = None, answers: list[Any] | None = None) -> dict[str, Any]:
    """The document of an endpoint with this signature, whose golden rows are their own answers unless others are given."""
    rows = None if golden is None else decode_rows(Layout(signature.inputs), golden)[0]
    given = rows if answers is None else decode_rows(Layout(signature.outputs), answers)[0]
    about = described("e", signature, Policy(), None if rows is None or given is None else (rows, given))
    paths = {path: item for protocol in protocols().values() for path, item in protocol.openapi(about).items()}
    found: dict[str, Any] = json.loads(msgspec.json.encode(document(about, paths, "1.0")))
    return found


FIELDS = (
    Field("x", DType.FLOAT64, nullable=True, minimum="0.5", maximum="9.5"),
    Field("n", DType.INT8),
    Field("kind", DType.STRING, categories=("red", "blue"), categorical=True, nullable=True),
    Field("usual", DType.STRING, categories=("a", "b")),
    Field("at", DType.TIMESTAMP, minimum="0", maximum="86400000000"),
    Field("any", DType.JSON),
    Field("grid", DType.FLOAT32, (2, -1)),
    Field("secret", DType.STRING, categories=("s3cret",), privacy=Privacy.DROP),
)
ROW = {
    "x": None, "n": 1, "kind": "red", "usual": "z", "at": "2024-01-01T00:00:00Z", "any": {"k": [1]},
    "grid": [[1, 2], [3, 4]], "secret": "private",
}  # fmt: skip


def test_it_says_what_the_endpoint_refuses_and_what_training_had() -> None:
    """Constraints are those of the endpoint; ranges and usual categories of the training data are words and examples."""
    found = document_of(Signature(FIELDS, FIELDS), [ROW])
    validate(found)
    columns = found["components"]["schemas"]["Row"]["properties"]
    assert columns["x"] == {"type": ["number", "null"], "format": "double", "description": "In training: 0.5 to 9.5."}
    assert columns["n"] == {"type": "integer", "minimum": -128, "maximum": 127}
    assert columns["kind"] == {"type": ["string", "null"], "enum": ["red", "blue", None]}
    assert columns["usual"] == {"type": "string", "examples": ["a", "b"]}
    assert columns["at"]["description"] == "In training: 1970-01-01T00:00:00.000000Z to 1970-01-02T00:00:00.000000Z."
    assert columns["any"] == {}
    inner = {"type": "array", "items": {"type": "number", "format": "float"}}
    assert columns["grid"] == {"type": "array", "minItems": 2, "maxItems": 2, "items": inner}
    assert "s3cret" not in json.dumps(found)
    body = found["paths"]["/v1/models/e:predict"]["post"]["requestBody"]["content"]
    assert body["application/json"]["example"]["instances"][0]["kind"] == "red"
    assert body["text/csv"]["example"].startswith("x,n,kind,usual,at,any,grid,secret\r\n,1,red,z,")
    assert body["application/vnd.apache.arrow.stream"]["x-limits"] == {"columns": 10_000, "record_batches": 1_000}
    assert set(found["paths"]) == {"/v1/models/e:predict", "/v2/models/e/infer", "/endpoints/e/invocations"}


def test_it_is_bounded() -> None:
    """10,000 columns with many long categories; golden rows that are too long are left out."""
    many = tuple("c" * 60 + str(number) for number in range(1_000))
    fields = tuple(Field(f"column {number}", DType.STRING, categories=many, categorical=True) for number in range(10_000))
    found = document_of(Signature(fields, fields[:1]), [dict.fromkeys((field.name for field in fields), many[0])])
    row = found["components"]["schemas"]["Row"]
    assert len(row["properties"]) == len(row["required"]) == MOST_COLUMNS
    assert "first 500 of 10000 columns" in row["description"]
    assert "example" not in found["paths"]["/v1/models/e:predict"]["post"]["requestBody"]["content"]["application/json"]
    assert len(json.dumps(found)) < MOST_BYTES


def test_an_endpoint_that_answers_in_parts_says_how() -> None:
    """Under the protocols that can send parts, with one golden row and all parts of its answer; others say nothing of parts."""
    signature = Signature(FIELDS[1:2], FIELDS[:1], parts=True)
    found = document_of(signature, [{"n": 1}], [{"x": 1.0}, {"x": 2.0}, {"x": 3.0}])
    validate(found)
    kinds = {"text/event-stream", "application/jsonl", "application/x-ndjson"}
    replies = {path: item["post"]["responses"]["200"]["content"] for path, item in found["paths"].items()}
    assert kinds < replies["/v1/models/e:predict"].keys()
    assert kinds < replies["/endpoints/e/invocations"].keys()
    assert not kinds & replies["/v2/models/e/infer"].keys()
    assert replies["/v1/models/e:predict"]["application/json"]["example"] == {"predictions": [1.0, 2.0, 3.0]}
    events = replies["/v1/models/e:predict"]["text/event-stream"]["example"]
    assert [json.loads(data) for _, data in EventReader().feed(events.encode())] == [
        *({"predictions": [number]} for number in (1.0, 2.0, 3.0)),
        {"parts": 3},
    ]
    whole = document_of(Signature(FIELDS[1:2], FIELDS[:1]))
    assert not kinds & whole["paths"]["/v1/models/e:predict"]["post"]["responses"]["200"]["content"].keys()


KEYS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("rw_all", "rw_none")}


@pytest.fixture(scope="module")
def worker(start_worker: Any, make_plan: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real worker with a real package, whose callers need a key; one key may call another endpoint only."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"distance": np.round(rng.uniform(100, 900, 80), 1), "carrier": rng.choice(["UA", "DL"], 80)})
    encode = make_column_transformer((OneHotEncoder(), ["carrier"]), remainder="passthrough")
    model = make_pipeline(encode, LogisticRegression(max_iter=1_000)).fit(frame, frame["distance"] > 400)
    folder = tmp_path_factory.mktemp("openapi")
    package = pack(model, name="flights", inputs=frame, out=folder, compile=False)
    plan = make_plan()
    place(plan, folder / "home", package, allowed=True)
    entries = (KeyEntry("a", KEYS["rw_all"], "predictor", None), KeyEntry("n", KEYS["rw_none"], "predictor", ("other",)))
    options = {"folder": folder / "home", "command": COMMAND, "confinement": "best-effort"}
    return start_worker(plan, snapshot=plan.snapshot(keys=entries), **options).wait_ready()


def bearer(key: str) -> dict[str, str]:
    """The header of a key."""
    return {"authorization": f"Bearer {key}"}


def spell(rows: Any) -> Any:
    """A model that answers in parts, as many as its first number says."""
    for number in range(int(rows[0]["q"])):
        yield {"word": f"w{number}"}


def test_every_golden_example_is_answered(worker: Any) -> None:
    """The served document is valid, and each of its examples is a request that the endpoint answers as the document says."""
    reply = worker.client.get("/v1/models/flights/openapi.json", headers=bearer("rw_all"))
    assert reply.status_code == 200, reply.text
    found = reply.json()
    validate(found)
    asked = []
    for path, item in found["paths"].items():
        for media, body in item["post"]["requestBody"]["content"].items():
            if "example" in body:
                text = body["example"] if isinstance(body["example"], str) else json.dumps(body["example"])
                answer = worker.client.post(path, content=text, headers={"content-type": media, **bearer("rw_all")})
                assert answer.status_code == 200, answer.text
                expected = item["post"]["responses"]["200"]["content"]["application/json"].get("example")
                assert expected in (None, answer.json())
                asked.append((path.rpartition("/")[2], media))
    assert {
        ("flights:predict", "application/json"),
        ("flights:predict", "text/csv"),
        ("invocations", "text/csv"),
        ("infer", "application/json"),
    } <= set(asked)
    assert worker.client.get("/v1/models/flights/openapi.json", headers=bearer("rw_all")).content == reply.content


def test_the_example_of_an_answer_in_parts_is_one_row_and_all_its_parts(tmp_path: Path) -> None:
    """The model answers one row at a time, so a request with three would fail."""
    package = pack(spell, name="spell", inputs=[{"q": float(number)} for number in (2, 5, 4)], out=tmp_path)
    folder = tmp_path / "packages" / package.digest.removeprefix("sha256:")
    unpack(package.path, folder)
    split = SimpleNamespace(variants=[SimpleNamespace(version=SimpleNamespace(digest=package.digest))])
    entry = SimpleNamespace(policy=Policy())
    endpoint: Any = SimpleNamespace(name="spell", signature=package.signature, entry=entry, split=split)
    found = json.loads(asyncio.run(Documents(tmp_path, tmp_path / "slab").openapi(endpoint)))
    validate(found)
    post = found["paths"]["/v1/models/spell:predict"]["post"]
    body = post["requestBody"]["content"]["application/json"]["example"]
    assert body == {"instances": [2.0]}
    assert post["responses"]["200"]["content"]["application/json"]["example"] == {"predictions": ["w0", "w1"]}
    rows = PredictJson(package.signature, Policy()).decode({}, json.dumps(body).encode()).batch
    parts = InlineRunner(construct(open_package(folder), allow_code=(package.digest,))).parts(rows)
    assert [encode_rows(part) for part in iter(parts.next, None)] == [["w0"], ["w1"]]


def test_statistics_read_the_counts_once() -> None:
    """Not once for each version, which would hold the event loop with many of them."""
    reads = []

    class Counted(dict[Any, Any]):
        def items(self) -> Any:
            reads.append(self)
            return super().items()

    old, new, other = (Bound("e", generation, f"m:{number}", "sha256:1") for generation, number in ((1, 1), (2, 1), (1, 2)))
    requests = {(old, "ok"): 3, (new, "ok"): 1, (new, "model-failed"): 2, (other, "ok"): 9}
    totals = Totals(Counted(requests), Counted({old: [0, 5], new: [0, 2]}), Counted({old: 30, new: 10}))
    variant: Any = SimpleNamespace(model="m", number=1, version=SimpleNamespace(digest="sha256:1"))
    endpoint: Any = SimpleNamespace(name="e")
    first, *_ = describe.statistics([(endpoint, variant)] * 50, totals)["model_stats"]
    assert len(reads) == 3
    assert (first["inference_count"], first["execution_count"]) == (40, 4)
    assert first["inference_stats"]["success"] == {"count": 4, "ns": 7_000}
    assert first["inference_stats"]["fail"]["count"] == 2


def test_it_needs_the_key_that_predictions_need(worker: Any) -> None:
    """No key, and a key of other endpoints."""
    path = "/v1/models/flights/openapi.json"
    assert worker.client.get(path).json()["code"] == "no-key"
    assert worker.client.get(path, headers=bearer("rw_none")).json()["code"] == "endpoint-not-allowed"
    for path in ("/v2/models/flights/stats", "/v2/models/flights/config"):
        assert worker.client.get(path, headers=bearer("rw_none")).status_code == 403
    assert worker.client.get("/v2/models/stats", headers=bearer("rw_none")).json() == {"model_stats": []}
    assert worker.client.post("/v2/repository/index", headers=bearer("rw_none")).json() == []
    assert worker.client.post("/v2/repository/index").status_code == 401


def test_the_page_is_complete_in_itself(worker: Any) -> None:
    """It needs no key, tells nothing about endpoints, loads nothing, and only its own script may run."""
    page = worker.client.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "flights" not in page.text
    assert not re.search(r"(?:src|href)=|https?://|@import|\burl\(", page.text), "it loads something"
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "innerHTML" not in script, "text of a model could become markup"


def test_the_front_page_says_where_to_go(worker: Any) -> None:
    """HTML for browsers, JSON for others; V1's liveness is part of it."""
    front = worker.client.get("/").json()
    assert (front["status"], front["docs"]) == ("alive", "docs")
    html = worker.client.get("/", headers={"accept": "text/html,*/*;q=0.8"})
    assert html.headers["content-type"].startswith("text/html")
    assert 'href="docs"' in html.text
    for path in ("docs", "readyz"):
        assert worker.client.get(f"/{path}").status_code == 200
