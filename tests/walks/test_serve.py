"""pack → serve → curl, with only a model file and a table: the line that `serve` prints works as it is."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import joblib
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import roadworthy as rw
from tests.machine import run_command, start_command
from tests.waiting import DEADLINE_S, NO_TLS


def environment(home: Path) -> dict[str, str]:
    """Our environment, with a separate home folder."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
    return {**clean, "ROADWORTHY_HOME": str(home)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.joblib and rows.csv of a real data set."""
    folder = tmp_path_factory.mktemp("user")
    data = load_breast_cancer(as_frame=True)
    joblib.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(data.data, data.target), folder / "model.joblib")
    data.frame.to_csv(folder / "rows.csv", index=False)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return run_command(arguments, cwd=folder, env=environment(folder / "home"))


@pytest.fixture(scope="module")
def package(folder: Path) -> dict[str, Any]:
    """The packed model, as `pack --json` describes it. Without other runtimes it carries code (scikit-learn's pickle)."""
    result = run(
        folder, "pack", "model.joblib", "--sample", "rows.csv", "--name", "cells", "--label-column", "target",
        "--no-compile", "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@contextmanager
def serving(folder: Path, *arguments: str, cold: bool = False) -> Iterator[dict[str, Any]]:
    """`roadworthy serve … --json` in the foreground of a child; its announcement. Ctrl-C stops it. `cold`: as users start it."""
    words = ["serve", *arguments, "--port", "0", "--metrics-port", "0", "--workers", "1", "--json"]
    with (folder / "serve.log").open("wb") as log:
        process, stdout = start_command(words, stderr=log, env=environment(folder / "home"), cwd=folder, cold=cold)
        try:
            text = ""
            while not text.endswith("}\n"):
                line = stdout.readline()
                assert line, (folder / "serve.log").read_text()
                text += line
            yield json.loads(text)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE_S) == 0, (folder / "serve.log").read_text()
            stdout.close()


def test_the_printed_line_works(folder: Path, package: dict[str, Any]) -> None:
    """From a file to a correct answer: the curl line answers with the package's own golden answer and names the digest."""
    with serving(folder, package["path"], "--allow-code", package["digest"], cold=True) as told:
        _, silent, url, *rest = shlex.split(told["curl"])
        assert (silent, url) == ("-s", told["url"])
        headers = dict(rest[number + 1].split(": ", 1) for number in (0, 2))
        body = rest[rest.index("-d") + 1]
        reply = httpx.post(url, content=body, headers=headers, timeout=DEADLINE_S, verify=NO_TLS)
        assert reply.status_code == 200, reply.text
        assert reply.headers["roadworthy-digest"] == package["digest"]
        row = json.loads(body)["instances"][0]
        model = joblib.load(folder / "model.joblib")
        right = model.predict_proba(pd.DataFrame([row]))[0]
        assert reply.json()["predictions"][0]["probabilities"] == pytest.approx(list(right), rel=1e-5)
        assert (
            httpx.post(
                url, content=body, headers={"Content-Type": "application/json"}, timeout=DEADLINE_S, verify=NO_TLS
            ).status_code
            == 401
        )
        assert httpx.get(told["metrics"], timeout=DEADLINE_S, verify=NO_TLS).status_code == 200
        second = run(folder, "serve", package["path"], "--allow-code", package["digest"], "--port", "0")
        assert second.returncode == 4
        assert "code: already-running" in second.stderr


def test_code_runs_only_when_its_digest_is_named(folder: Path, package: dict[str, Any]) -> None:
    """A package that carries code is refused, and the hint is the command to run; another digest does not permit it."""
    for words in ([], ["--allow-code", "sha256:" + "0" * 64]):
        result = run(folder, "serve", package["path"], *words)
        assert result.returncode == 4
        assert f"roadworthy serve {package['path']} --allow-code {package['digest']}" in result.stderr


def test_without_keys_on_loopback(folder: Path, package: dict[str, Any]) -> None:
    """--no-auth serves anyone on this machine, at the endpoint's own name."""
    with serving(folder, package["path"], "--allow-code", package["digest"], "--no-auth", "--endpoint", "open") as told:
        assert told["key"] is None
        assert "Authorization" not in told["curl"]
        assert told["url"].endswith("/v1/models/open:predict")
        words = shlex.split(told["curl"])
        reply = httpx.post(
            told["url"],
            content=words[-1],
            headers={"Content-Type": "application/json"},
            timeout=DEADLINE_S,
            verify=NO_TLS,
        )
        assert reply.status_code == 200


def test_what_cannot_be_loaded_ends_the_command(folder: Path, tmp_path: Path) -> None:
    """A package whose model fails in a fresh process here ends `serve` with status 4 instead of waiting forever."""
    (tmp_path / "fragile.py").write_text(
        "from pathlib import Path\n"
        f"def model(rows):\n    assert Path({str(tmp_path / 'needed')!r}).exists()\n    return [1.0 for _ in rows]\n"
    )
    (tmp_path / "needed").touch()
    sys.path.insert(0, str(tmp_path))
    try:
        import fragile  # type: ignore[import-not-found]

        packed = rw.pack(fragile.model, name="fragile", inputs=[{"a": 1.0}, {"a": 2.0}], out=tmp_path)
    finally:
        sys.path.remove(str(tmp_path))
    (tmp_path / "needed").unlink()
    result = run(
        folder, "serve", str(packed.path), "--allow-code", packed.digest, "--port", "0", "--metrics-port", "0"
    )  # fmt: skip
    assert result.returncode == 4, result.stderr
    assert "code: serve-failed" in result.stderr
