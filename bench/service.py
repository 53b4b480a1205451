"""Roadworthy as a user starts it: `roadworthy up` with its defaults in a home folder of its own, pinned to a core."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from bench.load.wrk import Target
from bench.models import Subject

COMMAND = str(Path(sys.executable).with_name("roadworthy"))


@dataclass
class Service:
    """One installation below `home`.

    Attributes:
        home: its ROADWORTHY_HOME. core: the processor core of all its processes, or None for all cores.
        ports: gateway, control plane, metrics.
    """

    home: Path
    core: int | None
    ports: tuple[int, ...] = field(default_factory=lambda: free_ports(3))
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start `roadworthy up` in the foreground of a child; returns at once."""
        gateway, control, metrics = self.ports
        arguments = ["up", "--port", str(gateway), "--control-port", str(control), "--metrics-port", str(metrics)]
        pinned = [] if self.core is None else ["taskset", "-c", str(self.core)]
        log = (self.home.parent / f"{self.home.name}.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [*pinned, COMMAND, *arguments],
                env=self._environment(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def stop(self) -> None:
        """End it as Ctrl-C would, and wait."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Return when the control plane and the gateway answer their probes."""
        gateway, control, _ = self.ports
        for url in (f"http://127.0.0.1:{control}/readyz", f"http://127.0.0.1:{gateway}/livez"):
            wait_for_answer(url, timeout_s)

    def run(self, *arguments: str) -> str:
        """A verb of the command line against this installation; what it printed."""
        result = subprocess.run(
            [COMMAND, *arguments], env=self._environment(), capture_output=True, text=True, timeout=120, check=False
        )
        if result.returncode != 0:
            raise RuntimeError(f"roadworthy {' '.join(arguments)}: {result.stdout}{result.stderr}")
        return result.stdout

    def deploy(self, subject: Subject) -> None:
        """Push a subject's package and serve it at the endpoint of its name."""
        allowed = ["--allow-code", subject.code] if subject.code else []
        self.run("push", str(subject.package), *allowed)
        self.run("deploy", f"{subject.name}:1", "--endpoint", subject.name)

    @property
    def key(self) -> str:
        """The admin key that `up` left for the command line."""
        document = json.loads((self.home / "context.json").read_text())
        return str(document["key"])

    def target(self, endpoint: str) -> Target:
        """Where wrk sends an endpoint's requests."""
        return Target(self.ports[0], f"/v1/models/{endpoint}:predict", f"Bearer {self.key}")

    def workers(self) -> list[psutil.Process]:
        """The gateway's worker processes."""
        if self.process is None:
            return []
        family = psutil.Process(self.process.pid).children(recursive=True)
        return [member for member in family if "roadworthy.gateway.worker" in member.cmdline()]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "ROADWORTHY_HOME": str(self.home)}


@contextmanager
def installed(folder: Path, subjects: list[Subject], core: int | None) -> Iterator[Service]:
    """A fresh installation that serves the subjects; stopped at the end."""
    service = Service(folder / "home", core)
    service.start()
    try:
        service.wait_ready()
        for subject in subjects:
            service.deploy(subject)
        yield service
    finally:
        service.stop()


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of the loopback interface that nobody uses now; held together, so that all are different."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = tuple(holder.getsockname()[1] for holder in holders)
    for holder in holders:
        holder.close()
    return ports


def wait_for_answer(url: str, timeout_s: float) -> None:
    """Return when `url` answers 200; TimeoutError when it does not."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing answered at {url} within {timeout_s:g} s")
