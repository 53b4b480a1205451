"""Protocols of plug-ins in a real worker: they take nothing of ours, and one that raises keeps no endpoint from serving."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLANTED_WORKER
from tests.plugins.installed import write_distribution
from tests.waiting import eventually

MODULE = """
from roadworthy.codecs.formats import PredictProtocol
from roadworthy.codecs.protocol import Page

PROBES = ("/livez", "/readyz", "/ping", "/", "/docs", "/v1/models", "/greedy")

class Greedy(PredictProtocol):
    name = "greedy"
    pages = tuple(Page(path, open=True, answer=lambda state: (200, b"text/plain", b"greedy")) for path in PROBES)

    def paths(self, endpoint, version, *, only):
        if version is not None:
            return ()
        return ("/greedy/" + endpoint, "/v1/models/" + endpoint, "/healthz", "/livez", "/v2/repository/index")

class Faulty(PredictProtocol):
    name = "faulty"

    def paths(self, endpoint, version, *, only):
        return ("/faulty/" + endpoint,) if version is None else ()

    def error_keys(self, status, message):
        raise OSError("no keys")

    def openapi(self, about):
        raise OSError("no document")

class Lost(PredictProtocol):
    name = "lost"

    pages = (Page("/größe", open=True, answer=None),)

    def paths(self, endpoint, version, *, only):
        raise OSError("no paths")

class Foreign(PredictProtocol):
    name = "foreign"

    def paths(self, endpoint, version, *, only):
        return ("/größe/" + endpoint,)

GREEDY, FAULTY, LOST, FOREIGN = Greedy(), Faulty(), Lost(), Foreign()
"""
NAMES = ("greedy", "faulty", "lost", "foreign")
ENTRY = "[roadworthy.protocols]\n" + "".join(f"{name} = own_protocols:{name.upper()}\n" for name in NAMES)


@pytest.fixture
def worker(start_worker: Any, make_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker that is allowed a distribution with four bad protocols."""
    write_distribution(tmp_path, "own-protocols", ENTRY, MODULE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    return start_worker(plan, plugins=["own-protocols"], command=["-B", str(PLANTED_WORKER)]).wait_ready()


def test_they_take_no_path_of_ours_and_stop_no_endpoint(worker: Any) -> None:
    """Pages and predictions of plug-ins come after ours, method by method; one that raises has no paths, keys or document."""
    assert worker.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}
    for path in ("/livez", "/readyz", "/ping", "/", "/docs", "/v1/models", "/healthz", "/v1/models/sum"):
        reply = worker.client.get(path)
        assert (reply.status_code, reply.content == b"greedy") == (200, False), path
    assert worker.client.post("/v2/repository/index").json()[0]["name"] == "sum"
    assert worker.client.get("/greedy").content == b"greedy", "its own page"
    rows = {"instances": [[1, 2, 3]]}
    for path in ("/greedy/sum", "/faulty/sum", "/v1/models/sum"):
        assert worker.client.post(path, json=rows).json() == {"predictions": [6.0]}, path
    refused = worker.client.post("/faulty/sum", json={})
    assert (refused.status_code, refused.json()["code"]) == (400, "no-instances")
    document = worker.client.get("/v1/models/sum/openapi.json")
    assert "/v1/models/sum:predict" in document.json()["paths"]
    for fault in (
        "protocol lost: paths: OSError: no paths",
        "protocol lost: pages: UnicodeEncodeError",
        "protocol faulty: error_keys: OSError: no keys",
        "protocol faulty: openapi: OSError: no document",
        "protocol foreign: paths: UnicodeEncodeError",
    ):
        eventually(lambda fault=fault: fault in (worker.folder / "log").read_text(), f"the log tells: {fault}")
