"""The peers, one entry each: requirements, start command, requests, and how to read an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bench.load.wrk import probability
from bench.models import Rows, bodies

SERVERS = Path(__file__).parent / "servers"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Start:
    """The inputs of a peer's commands: its environment's bin folder, the pipeline's file, a port, a private folder."""

    bin: Path
    model: Path
    port: int
    folder: Path


@dataclass(frozen=True)
class Peer:
    """One other server.

    Attributes:
        name: for display. package: the distribution whose version is shown.
        requirements: for pip, in addition to the pipeline's own libraries.
        command: starts the peer. prepare: runs before that and is not timed; does nothing by default.
        path: of the predictions. bodies: one request per row. read: finds the second class's probability in an answer's text.
        environment: additional environment variables.
    """

    name: str
    package: str
    requirements: tuple[str, ...]
    command: Callable[[Start], list[str]]
    path: str = "/predict"
    bodies: Callable[[Rows], list[bytes]] = bodies
    read: Callable[[str], float] = probability
    prepare: Callable[[Start], None] = lambda _start: None
    environment: Callable[[Start], dict[str, str]] = lambda _start: {}


def libraries() -> tuple[str, ...]:
    """The pipeline's own libraries, in the versions that made it."""
    return tuple(f"{name}=={version(name)}" for name in ("scikit-learn", "joblib", "numpy"))


def _script(name: str) -> Callable[[Start], list[str]]:
    return lambda start: [str(start.bin / "python"), str(SERVERS / name), str(start.model), str(start.port)]


def _by_hand(start: Start) -> list[str]:
    return [str(start.bin / "python"), "-m", "bench.baselines.fastapi_sklearn", str(start.model), str(start.port)]


def _bento(start: Start) -> list[str]:
    listen = ["--host", "127.0.0.1", "--port", str(start.port)]
    return [str(start.bin / "bentoml"), "serve", "bentoml_server:Cells", "--working-dir", str(SERVERS), *listen]


def _mosec(start: Start) -> list[str]:
    listen = ["--address", "127.0.0.1", "--port", str(start.port)]
    return [str(start.bin / "python"), str(SERVERS / "mosec_server.py"), *listen]


def _mlflow_save(start: Start) -> None:
    from bench.peers.environment import run

    run([str(start.bin / "python"), str(SERVERS / "mlflow_save.py"), str(start.model), str(start.folder / "mlflow")])


def _mlflow(start: Start) -> list[str]:
    listen = ["--host", "127.0.0.1", "--port", str(start.port), "--workers", "1"]
    folder = str(start.folder / "mlflow")
    return [str(start.bin / "mlflow"), "models", "serve", "-m", folder, "--env-manager", "local", *listen]


def _mlflow_read(answer: str) -> float:
    return float(json.loads("{" + answer)["predictions"][0][1])


def _mlserver_settings(start: Start) -> None:
    from bench.ports import free_ports

    grpc, metrics = free_ports(2)
    settings = {
        "host": "127.0.0.1",
        "http_port": start.port,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
    }
    model = {
        "name": "cells",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(start.model)},
    }
    (start.folder / "settings.json").write_text(json.dumps(settings))
    (start.folder / "model-settings.json").write_text(json.dumps(model))


def _mlserver(start: Start) -> list[str]:
    return [str(start.bin / "mlserver"), "start", str(start.folder)]


def _tensor_bodies(rows: Rows) -> list[bytes]:
    documents = (
        {
            "inputs": [{"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": row}],
            "outputs": [{"name": "predict_proba"}],
        }
        for row in rows.tolist()
    )
    return [json.dumps(document, separators=(",", ":")).encode() for document in documents]


def _tensor_read(answer: str) -> float:
    return float(json.loads(answer)["outputs"][0]["data"][1])


PEERS = {
    peer.name: peer
    for peer in (
        Peer("FastAPI by hand", "fastapi", ("fastapi", "uvicorn"), _by_hand),
        Peer("MLflow", "mlflow", ("mlflow",), _mlflow, "/invocations", read=_mlflow_read, prepare=_mlflow_save),
        Peer("BentoML", "bentoml", ("bentoml",), _bento, environment=lambda start: {"MODEL": str(start.model)}),
        Peer("LitServe", "litserve", ("litserve",), _script("litserve_server.py")),
        Peer("Ray Serve", "ray", ("ray[serve]",), _script("ray_server.py")),
        Peer(
            "MLServer",
            "mlserver",
            ("mlserver", "mlserver-sklearn"),
            _mlserver,
            "/v2/models/cells/infer",
            _tensor_bodies,
            _tensor_read,
            _mlserver_settings,
        ),
        Peer("mosec", "mosec", ("mosec",), _mosec, "/inference", environment=lambda start: {"MODEL": str(start.model)}),
        Peer(
            "PyTriton",
            "nvidia-pytriton",
            ("nvidia-pytriton",),
            _script("pytriton_server.py"),
            "/v2/models/cells/infer",
            _tensor_bodies,
            _tensor_read,
        ),
    )
}
