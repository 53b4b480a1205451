"""Probes and the health page of a real worker: how a failing version and a shortage of memory change them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import KeyEntry, PackageEntry
from roadworthy.foundation.keys import hash_key, make_key
from roadworthy.foundation.slab import SlabReader
from roadworthy.package.archive import unpack
from roadworthy.package.packing.pack import pack
from roadworthy.serving.metrics import Totals, read_totals
from tests.conftest import eventually

COMMAND = ["-m", "roadworthy.gateway.worker"]
EVERY_S = 0.1


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A package whose behaviour follows the word in a file, and the file."""
    folder = tmp_path_factory.mktemp("moody")
    mood = folder / "mood"
    mood.write_text("right")
    file = str(mood)

    def double(x: Any) -> Any:
        from pathlib import Path

        word = Path(file).read_text()
        if word == "raise":
            raise RuntimeError("a secret of the model")
        return np.asarray(x)[:, 0] * (3.0 if word == "wrong" else 2.0)

    return pack(double, name="moody", inputs=np.arange(1.0, 41.0).reshape(20, 2), out=folder, compile=False), mood


def totals(worker: Any) -> Totals:
    """The worker's counts."""
    reader = SlabReader(worker.folder / "run" / "slab")
    try:
        return read_totals(reader)
    finally:
        reader.close()


@pytest.fixture
def serve(start_worker: Callable[..., Any], make_plan: Any, moody: tuple[Any, Path], tmp_path: Path) -> Callable[..., Any]:
    """Starts a worker with the package at endpoints e and f."""
    package, mood = moody
    mood.write_text("right")

    def go(keys: Any = None, **options: Any) -> Any:
        plan = make_plan()
        unpack(package.path, tmp_path / "packages" / package.digest.removeprefix("sha256:"))
        plan.packages.append(PackageEntry(package.digest, "moody", 3, 1, "key-test"))
        plan.models[package.digest] = {"signature": package.signature.to_document()}
        for name in ("e", "f"):
            plan.endpoint(name, [package.digest], Policy(record=True))
        options = {"golden_probe_s": EVERY_S, "confinement": "best-effort", **options}
        return start_worker(plan, folder=tmp_path, snapshot=plan.snapshot(keys=keys), command=COMMAND, **options)

    return go


@pytest.mark.parametrize("word", ["wrong", "raise"])
def test_a_version_that_goes_wrong_makes_the_probe_say_no(
    serve: Callable[..., Any], moody: tuple[Any, Path], planted_agent: Any, tmp_path: Path, word: str
) -> None:
    """Soon after, and the agent learns of it. Callers are still answered, no probe counts as a request or is recorded, and the
    version recovers."""
    package, mood = moody
    agent = planted_agent(tmp_path)
    worker = serve().wait_ready()
    label = "moody:3"
    eventually(lambda: totals(worker).probes[label, "ok"] >= 3, "it is checked")
    assert worker.client.get("/v2/models/e/ready").json() == {"name": "e", "ready": True}
    mood.write_text(word)
    probe = eventually(lambda: (reply := worker.client.get("/readyz")).status_code == 503 and reply, "the probe says no")
    assert probe.json() == {
        "ready": False, "reason": "wrong-answers", "endpoints": 2, "missing": [], "unhealthy": ["e", "f"],
    }  # fmt: skip
    assert worker.client.get("/livez").status_code == 200
    assert worker.client.get("/v2/health/ready").status_code == 503
    refused = worker.client.get("/v2/models/e/ready")
    assert (refused.status_code, refused.json()) == (503, {"name": "e", "ready": False})
    eventually(lambda: [state.health for state in agent.last().versions] == ["wrong-answers"], "the agent learns it")
    assert agent.last().versions[0].state == "READY"
    assert worker.predict("e", [[2, 1]]).status_code == (200 if word == "wrong" else 500)
    page = worker.client.get("/healthz").json()
    version = page["endpoints"]["e"]["versions"][0]
    assert (page["ready"], page["endpoints"]["e"]["ready"]) == (False, False)
    assert (version["version"], version["check"]["health"], version["check"]["last"]) == (label, *["wrong-answers"] * 2)
    assert "secret" not in json.dumps(page)
    mood.write_text("right")
    eventually(lambda: worker.client.get("/readyz").status_code == 200, "it is well again")
    eventually(lambda: agent.last().versions[0].health is None, "the agent learns it")
    assert sum(totals(worker).requests.values()) == 1
    eventually(lambda: len(agent.records) == 1, "the one request is recorded")
    assert package.digest == agent.records[0].digest


def test_probes_do_not_disturb_traffic(serve: Callable[..., Any]) -> None:
    """With ten probes a second, every request is answered as before, and only requests are counted as such."""
    worker = serve().wait_ready()
    answers = []

    def checked() -> bool:
        answers.append(worker.predict("e", [[2, 1]]).json())
        return totals(worker).probes["moody:3", "ok"] >= 5

    eventually(checked, "five checks during the traffic")
    assert answers == [{"predictions": [4.0]}] * len(answers)
    assert sum(totals(worker).requests.values()) == len(answers)


def test_the_health_page_needs_a_key_and_shows_what_the_key_may_ask(serve: Callable[..., Any]) -> None:
    """Without a key there is no page; a key of one endpoint sees only that endpoint; latency and placement are shown."""
    (one, one_key), (all_, all_key) = make_key(), make_key()
    keys = (KeyEntry(one, hash_key(one_key), "predictor", ("e",)), KeyEntry(all_, hash_key(all_key), "predictor"))
    worker = serve(keys).wait_ready()
    assert worker.client.get("/healthz").status_code == 401
    eventually(lambda: totals(worker).probes["moody:3", "ok"] >= 4, "it is checked")
    for key, names in ((one_key, {"e"}), (all_key, {"e", "f"})):
        page = worker.client.get("/healthz", headers={"authorization": f"Bearer {key}"}).json()
        assert set(page["endpoints"]) == names
    assert 0 < page["memory_used"] < 1
    assert page["disk_free_bytes"] > 0
    version = page["endpoints"]["e"]["versions"][0]
    assert version["placement"].startswith("inline")
    assert version["check"]["usual_ms"] > 0
    assert version["check"]["seconds_ago"] >= 0
    assert worker.client.post("/healthz", headers={"authorization": f"Bearer {all_key}"}).status_code == 405


def test_without_checks_nothing_is_known(serve: Callable[..., Any]) -> None:
    """golden_probe_s None."""
    worker = serve(golden_probe_s=None).wait_ready()
    page = worker.client.get("/healthz").json()
    assert page["endpoints"]["e"]["versions"][0]["check"] is None
    assert page["ready"] is True


def test_b8_no_memory_refuses_predictions_and_nothing_else(serve: Callable[..., Any]) -> None:
    """Predictions get 503 with Retry-After; probes, metadata and the health page answer, and the probe has the reason."""
    worker = serve(memory_close_share=0.0001, memory_refuse_share=0.0001)
    reply = eventually(
        lambda: (sent := worker.predict("e", [[2, 1]])).json().get("code") == "memory-pressure" and sent, "it refuses"
    )
    assert (reply.status_code, reply.headers["retry-after"], reply.headers["connection"]) == (503, "2", "close")
    probe = worker.client.get("/readyz")
    assert (probe.status_code, probe.json()["reason"]) == (503, "memory-pressure")
    assert probe.json()["warnings"] == ["memory-high", "memory-pressure"]
    for path in ("/livez", "/v1/models", "/v1/models/e", "/healthz"):
        assert worker.client.get(path).status_code == 200


def test_b8_little_memory_ends_connections(serve: Callable[..., Any]) -> None:
    """Every request is answered, on a connection that closes; the probe still says yes, with a warning."""
    worker = serve(memory_close_share=0.0001).wait_ready()
    eventually(lambda: worker.client.get("/readyz").json().get("warnings") == ["memory-high"], "the probe warns")
    reply = worker.predict("e", [[2, 1]])
    assert (reply.status_code, reply.headers["connection"]) == (200, "close")
    assert worker.client.get("/readyz").status_code == 200


def test_a_nearly_full_disk_is_a_warning(serve: Callable[..., Any]) -> None:
    """The probe's answer has the warning, and is ready."""
    worker = serve(disk_reserve_mb=1 << 40).wait_ready()
    probe = eventually(
        lambda: (reply := worker.client.get("/readyz")).json().get("warnings") == ["disk-low"] and reply,
        "the probe warns",
    )
    assert probe.status_code == 200
    assert worker.predict("e", [[2, 1]]).json() == {"predictions": [4.0]}
