"""Two versions of a model that differ in every answer, for tests and benchmarks that switch between them."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import roadworthy as rw
from bench.load.traffic import Traffic
from bench.models import Rows
from bench.service import NO_TLS, Service, wait_until

NAME = "cells"


@dataclass(frozen=True, slots=True)
class Versions:
    """The packed versions, the request bodies, and the answers: version → the second class's probability for each body."""

    packages: list[Path]
    bodies: list[bytes]
    right: dict[str, Rows]


def two_versions(folder: Path) -> Versions:
    """Two logistic regressions on real cells that differ enough to give different answers to every row."""
    data = load_breast_cancer()
    packages, right = [], {}
    for number, strength in enumerate((1.0, 0.0001), start=1):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength)).fit(data.data, data.target)
        package = rw.pack(model, name=NAME, inputs=data.data, labels=data.target, out=folder)
        if package.path is None:
            raise RuntimeError("the package was not written")
        packages.append(package.path)
        right[f"{NAME}:{number}"] = model.predict_proba(data.data)[:, 1]
    telling = np.flatnonzero(np.abs(right[f"{NAME}:1"] - right[f"{NAME}:2"]) > 0.01)
    bodies = [json.dumps({"instances": [data.data[row].tolist()]}).encode() for row in telling]
    return Versions(packages, bodies, {version: answers[telling] for version, answers in right.items()})


def serve_first(service: Service, versions: Versions, rate: float) -> Traffic:
    """Push both, serve the first at an endpoint of the model's name, and wait for it; return the traffic for it."""
    with service.client() as client:
        for package in versions.packages:
            client.push(package)
        client.wait(client.deploy(f"{NAME}:1", NAME))
    wait_until(partial(everyone_answers, service, NAME, versions.bodies[0]), "an answer of every worker")
    return Traffic(service.ports[0], service.key, versions.bodies, versions.right, rate=rate)


def everyone_answers(service: Service, endpoint: str, body: bytes) -> bool:
    """Whether every worker answers; a few new connections reach all of them."""
    target = service.target(endpoint)
    headers = {"Authorization": target.authorization or "", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{target.port}{target.path}"
    with suppress(httpx.HTTPError):
        return all(httpx.post(url, content=body, headers=headers, verify=NO_TLS).status_code == 200 for _ in range(16))
    return False
