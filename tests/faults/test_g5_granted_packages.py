"""A real installation with models that need a server on a port and a table; packages with and without grants."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import roadworthy as rw
from tests.machine import FREE_PORTS, Machine
from tests.waiting import DEADLINE_S, NO_TLS, eventually

ROWS = np.arange(40.0).reshape(20, 2)


def needy(port: int, table: str) -> Any:
    """A model that multiplies by a number from a server, and adds a number from a file."""

    def ask(rows: Any) -> Any:
        import socket
        from pathlib import Path

        with socket.create_connection(("127.0.0.1", port), 30) as line:
            factor = float(line.makefile().readline())
        return rows[:, 0] * factor + float(Path(table).read_text())

    return ask


@pytest.fixture(scope="module")
def factor_port() -> Iterator[int]:
    """A server that sends each caller a number."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    line, _ = server.accept()
                    with line:
                        line.sendall(b"3\n")

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def machine(tmp_path: Path, factor_port: int) -> Machine:
    """A machine with a package that needs both, and a table for it; not yet started."""
    made = Machine(tmp_path / "machine")
    (made.folder / "dist").mkdir(parents=True)
    (made.folder / "data").mkdir()
    (made.folder / "data" / "offset").write_text("0.5")
    model = needy(factor_port, str(made.folder / "data" / "offset"))
    with contextlib.chdir(made.folder):
        made.packages.append(rw.pack(model, name="needy", inputs=ROWS, out=made.folder / "dist", compile=False))
    made.models.append(model)
    return made


def allow(machine: Machine, *grants: str) -> None:
    """Write the operator's grants into the machine's settings."""
    (machine.folder / "roadworthy.toml").write_text(f"[general]\ngrants = {json.dumps(grants)}\n")


@contextlib.contextmanager
def up(machine: Machine) -> Iterator[None]:
    """The machine runs until the end of the block."""
    started = machine.run("up", "-d", *FREE_PORTS)
    assert started.returncode == 0, started.stderr + machine.log()
    try:
        yield
    finally:
        machine.run("stop")


def ask(machine: Machine) -> httpx.Response:
    """One prediction."""
    context = machine.context()
    url = f"{context['gateway_url']}/v1/models/needy:predict"
    headers = {"Authorization": f"Bearer {context['key']}"}
    return httpx.post(url, json={"instances": [[2.0, 0.0], [4.0, 0.0]]}, headers=headers, timeout=DEADLINE_S, verify=NO_TLS)


def code(machine: Machine, *arguments: str) -> str:
    """The code with which a command is refused."""
    result = machine.run(*arguments, "--json")
    assert result.returncode != 0, result.stdout
    return str(json.loads(result.stderr.splitlines()[-1])["code"])


def test_g5_a_granted_package_works_from_push_to_prediction(machine: Machine, factor_port: int) -> None:
    """Within the setting only, both in the proof and behind the gateway. A gateway whose setting was reduced does not run it, and
    reports that; another version on the same machine continues."""
    port, table = f"tcp:{factor_port}", f"read:{machine.folder / 'data' / 'offset'}"
    package = machine.packages[0]
    push = ("push", str(package.path), "--allow-code", package.digest)
    allow(machine, port, f"read:{machine.folder / 'data'}")
    with up(machine):
        assert code(machine, *push, "--grant", port, "--grant", "network") == "grant-not-allowed"
        assert code(machine, *push, "--grant", port, "--grant", f"read:{machine.home}") == "grant-not-allowed"
        for too_little in ((), ("--grant", port), ("--grant", table)):
            assert code(machine, *push, *too_little) == "model-failed-on-golden"
        pushed = machine.tell(*push, "--grant", port, "--grant", table)
        assert pushed["grants"] == [table, port]
        assert [version["grants"] for version in machine.tell("version", "list")] == [[table, port]]
        assert port in machine.run("version", "list").stdout
        machine.tell("deploy", "needy:1", "--endpoint", "needy")
        reply = ask(machine)
        assert reply.status_code == 200, reply.text + machine.log()
        assert reply.json()["predictions"] == [6.5, 12.5]
        assert f"granted {table}, {port}" in machine.run("status").stdout
    allow(machine, port)
    with up(machine):

        def told() -> Any:
            workers = machine.tell("status")["gateways"][0]["workers"]
            versions = [version for worker in workers or () for version in worker["versions"]]
            return [version["code"] for version in versions if version["digest"] == package.digest] == ["grant-not-allowed"]

        eventually(told, "the gateway says why it does not run the version")
        assert ask(machine).status_code == 503


def test_g5_serve_takes_grants_within_the_setting(machine: Machine, factor_port: int) -> None:
    """The same holds without a control plane; a refusal comes before anything starts."""
    package = machine.packages[0]
    serve = ("serve", str(package.path), "--allow-code", package.digest, "--port", "0", "--metrics-port", "0")
    assert code(machine, *serve, "--grant", f"tcp:{factor_port}") == "grant-not-allowed"
    allow(machine, "read:/", f"tcp:{factor_port}")
    assert code(machine, *serve, "--grant", f"read:{machine.home}") == "grant-not-allowed"
    assert code(machine, *serve, "--grant", f"read:{machine.folder / 'roadworthy.toml'}") == "grant-not-allowed"
    assert code(machine, *serve, "--grant", "tcp") == "grant-invalid"
