"""The real worker on real packages: constructed and proved here, answering as in training, in little memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.package.archive import unpack
from roadworthy.package.packing.pack import pack
from tests.conftest import eventually
from tests.graphs import sum_graph

COMMAND = ["-m", "roadworthy.gateway.worker"]
MAX_IDLE_MB = 100
"""Bound of a worker's own memory, which was 64 MB with Python 3.11 and 67 MB with 3.13. Mapped pages of libraries do not count:
the page cache decides how many there are. They were 103 MB just after the installation, and 79 MB after a read from disk."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pipeline over a DataFrame, with text and nulls, that stays native; and an ONNX file."""
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, 200),
            "income": np.where(rng.random(200) < 0.2, np.nan, rng.random(200)),
            "city": rng.choice(["Brno", "Osaka", "Lomé"], 200),
        }
    )
    labels = np.where((frame["age"] > 40) ^ (frame["city"] == "Osaka"), "yes", "no")
    encode = make_column_transformer((OrdinalEncoder(), ["city"]), remainder="passthrough")
    model = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=5, random_state=0)).fit(frame, labels)
    out = tmp_path_factory.mktemp("dist")
    native = pack(model, name="people", inputs=frame, labels=labels, out=out, compile=False)

    file = sum_graph(out, 3)
    light = pack(file, name="sum", inputs=rng.random((50, 3)).astype(np.float32), out=out)
    return {"people": (native, frame, model), "sum": (light, None, None)}


def place(plan: Any, folder: Path, package: Any, *, allowed: bool) -> None:
    """Install a package in the gateway's folder, and add it and an endpoint of its name to the plan."""
    unpack(package.path, folder / "packages" / package.digest.removeprefix("sha256:"))
    entry = PackageEntry(package.digest, package.name, 1, 1, "key-test" if allowed else None)
    plan.packages.append(entry)
    plan.models[package.digest] = {"signature": package.signature.to_document()}
    plan.endpoint(package.name, [package.digest])


def test_answers_are_those_of_training(start_worker: Any, make_plan: Any, packages: Any, tmp_path: Path) -> None:
    """A scikit-learn pipeline behind the real worker answers as the live object does, null and text included."""
    native, frame, model = packages["people"]
    plan = make_plan()
    place(plan, tmp_path, native, allowed=True)
    worker = start_worker(plan, folder=tmp_path, command=COMMAND, confinement="best-effort").wait_ready()
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    reply = worker.predict("people", rows)
    assert reply.status_code == 200, reply.text
    assert reply.headers["roadworthy-runtime"] == "native"
    answers = reply.json()["predictions"]
    assert [answer["label"] for answer in answers] == model.predict(frame).tolist()
    np.testing.assert_allclose([answer["probabilities"] for answer in answers], model.predict_proba(frame), rtol=1e-9)


@pytest.mark.parametrize(
    ("allowed", "confinement", "code"),
    [(False, "best-effort", b"code-not-allowed"), (True, "required", b"confinement-not-available")],
    ids=["leave", "confinement"],
)
def test_g5_a_package_with_code_needs_leave_and_confinement(
    start_worker: Any, make_plan: Any, packages: Any, tmp_path: Path, *, allowed: bool, confinement: str, code: bytes
) -> None:
    """Pickled code without permission is not executed, nor any code in a worker with confinement "required", wherever a policy
    places it. The endpoint is not ready, and the rest is served."""
    plan = make_plan()
    place(plan, tmp_path, packages["people"][0], allowed=allowed)
    place(plan, tmp_path, packages["sum"][0], allowed=False)
    worker = start_worker(plan, folder=tmp_path, command=COMMAND, confinement=confinement)
    eventually(lambda: worker.client.get("/readyz").json().get("missing") == ["people"], "the rest is served")
    assert worker.predict("people", [{}]).json()["code"] == "endpoint-not-ready"
    assert worker.predict("sum", [[1, 2, 3.5]]).json() == {"predictions": [6.5]}
    worker.stop()
    assert code in (tmp_path / "log").read_bytes()


def test_a_damaged_package_is_not_served(start_worker: Any, make_plan: Any, packages: Any, tmp_path: Path) -> None:
    """D10: with one flipped bit in the model's file it is refused at load, by digest."""
    plan = make_plan()
    place(plan, tmp_path, packages["sum"][0], allowed=False)
    (file,) = (tmp_path / "packages").rglob("*.onnx")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)
    worker = start_worker(plan, folder=tmp_path, command=COMMAND)
    eventually(lambda: b"load-failed" in (tmp_path / "log").read_bytes(), "it is refused")
    assert worker.client.get("/readyz").status_code == 503


def test_an_idle_worker_is_small(start_worker: Any, make_plan: Any, packages: Any, tmp_path: Path) -> None:
    """One small ONNX model: little memory of its own, and none of the heavy libraries inside."""
    plan = make_plan()
    place(plan, tmp_path, packages["sum"][0], allowed=False)
    cold = ["-P", *COMMAND]  # as the supervisor starts it
    worker = start_worker(plan, folder=tmp_path, command=cold).wait_ready()
    assert worker.predict("sum", [[1, 2, 3]]).status_code == 200
    regions = psutil.Process(worker.process.pid).memory_maps()
    assert sum(region.anonymous for region in regions) / 1e6 < MAX_IDLE_MB
    mapped = " ".join(region.path for region in regions)
    for library in ("pandas", "sklearn", "sqlalchemy"):
        assert f"/{library}/" not in mapped
