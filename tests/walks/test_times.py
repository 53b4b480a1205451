"""Case G3 from end to end: a model with a time column is packed, loaded and served; every caller gets the same instant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pytest

import roadworthy as rw
from tests.waiting import NO_TLS
from tests.walks.test_serve import serving

MIDNIGHT = 1_711_843_200_000_000
TIMES = pd.date_range("2023-01-01", periods=40, freq="11D", tz="UTC").as_unit("us")
FRAME = pd.DataFrame({"t": TIMES, "x": np.linspace(0.1, 0.3, 40)})


def echo(frame: Any) -> Any:
    """The model's input, to the bit."""
    return {"t": frame["t"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), "x": frame["x"].to_numpy()}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The packed model."""
    return rw.pack(echo, name="times", inputs=FRAME, out=tmp_path_factory.mktemp("times"))


@pytest.fixture(scope="module")
def served(package: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The package behind HTTP, for callers that send milliseconds."""
    words = ("--allow-code", package.digest, "--timestamp-integers", "ms", "--no-auth")
    with serving(tmp_path_factory.mktemp("served"), str(package.path), *words) as told:
        yield told


def ask(served: dict[str, Any], value: Any) -> httpx.Response:
    """One row."""
    return httpx.post(served["url"], json={"instances": [{"t": value, "x": 0.5}]}, verify=NO_TLS)


def test_g3_integers_of_the_named_unit_are_served(served: dict[str, Any]) -> None:
    """Milliseconds, as in JavaScript, and text; other units and floats are refused with the time that they would mean."""
    for value in (MIDNIGHT // 1_000, "2024-03-31", "2024-03-31T02:00:00+02:00"):
        assert ask(served, value).json()["predictions"][0]["t"] == "2024-03-31T00:00:00.000000Z"
    for value, code in (
        (MIDNIGHT // 10**6, "timestamp-far-from-training"),
        (MIDNIGHT, "out-of-range"),
        (MIDNIGHT * 1_000, "out-of-range"),
        (MIDNIGHT / 1_000, "wrong-type"),
    ):
        reply = ask(served, value)
        assert (reply.status_code, reply.json()["code"]) == (422, code)
    assert "1970-01-20T19:30:43.200000Z" in ask(served, MIDNIGHT // 10**6).json()["error"]


def test_g3_v2_has_the_unit_too(served: dict[str, Any]) -> None:
    """Its metadata names the accepted datatype; text is accepted too, and answers are text."""
    base = served["url"].partition("/v1/")[0] + "/v2/models/times"
    inputs = {tensor["name"]: tensor["datatype"] for tensor in httpx.get(base, verify=NO_TLS).json()["inputs"]}
    assert inputs == {"t": "INT64", "x": "FP64"}
    for datatype, value in (("INT64", MIDNIGHT // 1_000), ("BYTES", "2024-03-31")):
        tensors = [
            {"name": "t", "shape": [1], "datatype": datatype, "data": [value]},
            {"name": "x", "shape": [1], "datatype": "FP64", "data": [0.5]},
        ]
        outputs = httpx.post(f"{base}/infer", json={"inputs": tensors}, verify=NO_TLS).json()["outputs"]
        answered = {output["name"]: (output["datatype"], output["data"]) for output in outputs}
        assert answered["t"] == ("BYTES", ["2024-03-31T00:00:00.000000Z"])


def test_g3_rw_load_takes_the_unit(package: Any) -> None:
    """By an argument; without it integers are refused."""
    rows = [{"t": MIDNIGHT // 1_000, "x": 0.5}]
    with rw.load(package.path, allow_code=package.digest, timestamp_integers="ms") as model:
        assert model.predict(rows)["t"].tolist() == [pd.Timestamp("2024-03-31").to_pydatetime()]
    with rw.load(package.path, allow_code=package.digest) as model, pytest.raises(rw.InvalidInput) as refused:
        model.predict(rows)
    assert refused.value.code == "integer-for-timestamp"
    with pytest.raises(rw.InvalidRequest) as unknown:
        rw.load(package.path, timestamp_integers="minutes")
    assert unknown.value.code == "unknown-unit"


def test_g3_a_frame_goes_through_the_client_to_the_bit(served: dict[str, Any]) -> None:
    """Floats that need seventeen digits, and times of every unit and zone."""
    rng = np.random.default_rng(9)
    exact = np.array([0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2.0**53 - 1, 1e22, 123456789.123456789])
    x = np.concatenate([exact, rng.standard_normal(200), rng.standard_normal(200) * 10.0 ** rng.integers(-300, 300, 200)])
    micros = MIDNIGHT + rng.integers(-(10**15), 10**15, len(x))
    naive = pd.Series(micros.astype("datetime64[us]"))
    frames = [
        pd.DataFrame({"t": naive, "x": x}),
        pd.DataFrame({"t": naive.dt.as_unit("ns"), "x": x}),
        pd.DataFrame({"t": naive.dt.tz_localize("UTC").dt.tz_convert("Asia/Kolkata"), "x": x}),
        pl.DataFrame({"t": micros.astype("datetime64[us]"), "x": x}),
        [{"t": time, "x": number} for time, number in zip(naive, x, strict=True)],
    ]
    with rw.Client(served["url"].partition("/v1/")[0]) as client:
        for frame in frames:
            answers = client.predict("times", frame).predictions
            assert [row["x"].hex() for row in answers] == [number.hex() for number in x.tolist()]
            found = np.array([row["t"].removesuffix("Z") for row in answers], dtype="datetime64[us]")
            assert found.astype(np.int64).tolist() == micros.tolist()


def test_g3_the_line_that_serve_prints_has_text(served: dict[str, Any]) -> None:
    """Its example is accepted with any unit."""
    body = json.loads(served["curl"].partition(" -d ")[2].strip("'"))
    assert httpx.post(served["url"], json=body, verify=NO_TLS).status_code == 200
