"""Processes that fork after an endpoint was opened: each child begins anew, and the parent goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import roadworthy as rw
from tests.embedded.conftest import answers
from tests.waiting import DEADLINE_S, NO_TLS, eventually

ROW = {"age": 31.0, "income": 42_000.0}
SCRIPT = """
import multiprocessing, sys
import roadworthy as rw

ROW = {"age": 31.0, "income": 42000.0}
credit = rw.serve_in_process("credit", package=sys.argv[1])


def ask(_number):
    return round(credit.predict(ROW).predictions[0], 6), credit.status().pid, multiprocessing.current_process().pid


if __name__ == "__main__":
    here = credit.status().pid
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(ask, range(20))
    assert all(answer == 62.0 and pid == own != here for answer, pid, own in found), found
    assert round(credit.predict(ROW).predictions[0], 6) == 62.0
    folder = credit.core().folder
    assert folder.exists()
    print("well")
"""
APP = """
import sys
import flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware
import roadworthy as rw

chat = rw.serve_in_process("chat", package={package!r}, allow_code={digest!r})
app = DispatcherMiddleware(flask.Flask("app"), {{"/models": rw.wsgi_app(chat)}})
"""


def test_children_of_multiprocessing_begin_anew(credit: rw.Package, tmp_path: Path) -> None:
    """Each child has a core of its own; the parent's goes on, and nothing holds up its end."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(credit.path)], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_may_close_and_leave(credit: rw.Package) -> None:
    """A child that never asks closes and exits; the parent's endpoint is as before."""
    with rw.serve_in_process("forked", package=credit.path) as endpoint:
        folder = endpoint.core().folder
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            endpoint.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert folder.exists()
        assert answers(endpoint.predict(ROW)) == [62.0]


@pytest.fixture
def port() -> int:
    """A free port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_gunicorn_preloads_an_endpoint(chat: rw.Package, port: int, tmp_path: Path) -> None:
    """Two workers that forked from a loaded application answer, stream, and end with all their processes."""
    (tmp_path / "app.py").write_text(APP.format(package=str(chat.path), digest=chat.digest))
    command = [sys.executable, "-m", "gunicorn", "--preload", "-w", "2", "-t", "120", "-b", f"127.0.0.1:{port}", "app:app"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/models", verify=NO_TLS, timeout=DEADLINE_S) as client:
                eventually(lambda: client.get("/readyz").status_code == 200, "an answer")
                for _ in range(10):
                    reply = client.post("/v1/models/chat:predict", json={"instances": ["one two"]})
                    assert (reply.status_code, reply.json()) == (200, {"predictions": ["one", "two"]})
        finally:
            server.send_signal(signal.SIGTERM)
            _, errors = server.communicate(timeout=DEADLINE_S)
    assert server.returncode == 0, errors
    assert "Traceback" not in errors
