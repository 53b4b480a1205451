"""Roadworthy as a user starts it: `roadworthy up` with its defaults in a home folder of its own, pinned to a core."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

import roadworthy as rw
from bench.load.traffic import PATIENCE_S
from bench.load.wrk import Target
from bench.models import Subject
from bench.ports import free_ports

COMMAND = str(Path(sys.executable).with_name("roadworthy"))
ROLES = {
    "roadworthy.gateway.worker": "worker",
    "roadworthy.runtime.runners.isolated": "runner",
    "roadworthy.agent": "agent",
    "roadworthy.control": "control",
}
"""What a process of ours is, by the module that it runs."""


@dataclass
class Service:
    """One installation below `home`.

    Attributes:
        home: its ROADWORTHY_HOME. core: the processor core of all its processes, or None for all cores.
        ports: gateway, control plane, metrics.
        workers: worker processes; None for the default.
        verb: what is started: `up`, `gateway` or `control`, with options of its own.
        environment: variables beside those of this process. umask: of all its processes; -1 for that of this one.
    """

    home: Path
    core: int | None = None
    ports: tuple[int, ...] = field(default_factory=lambda: tuple(free_ports(3)))
    workers: int | None = None
    verb: tuple[str, ...] = ("up",)
    environment: dict[str, str] = field(default_factory=dict)
    umask: int = -1
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it in the foreground of a child; returns at once."""
        gateway, control, metrics = map(str, self.ports)
        arguments = [*self.verb, "--port", control if self.verb[0] == "control" else gateway]
        if self.verb[0] == "up":
            arguments += ["--control-port", control]
        if self.verb[0] != "control":
            arguments += ["--metrics-port", metrics]
        if self.workers is not None and self.verb[0] != "control":
            arguments += ["--workers", str(self.workers)]
        pinned = [] if self.core is None else ["taskset", "-c", str(self.core)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*pinned, COMMAND, *arguments],
                env=self._environment(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                umask=self.umask,
            )

    def stop(self) -> int:
        """End it as Ctrl-C would, and wait. Its exit status; 0 when it did not run."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process = None

    def wait_ready(self, timeout_s: float = PATIENCE_S) -> None:
        """Return when the control plane and the gateway answer their probes."""
        gateway, control, _ = self.ports
        for url in (f"http://127.0.0.1:{control}/readyz", f"http://127.0.0.1:{gateway}/livez"):
            wait_for_answer(url, timeout_s)

    def run(self, *arguments: str) -> str:
        """A verb of the command line against this installation; what it printed."""
        result = self.attempt(*arguments)
        if result.returncode != 0:
            raise RuntimeError(f"roadworthy {' '.join(arguments)}: {result.stdout}{result.stderr}")
        return result.stdout

    def attempt(self, *arguments: str, under: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """The same, whatever becomes of it. `under`: a program that runs the command."""
        return subprocess.run(
            [*under, COMMAND, *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE_S,
            check=False,
            umask=self.umask,
        )

    def deploy(self, subject: Subject) -> None:
        """Push a subject's package and serve it at the endpoint of its name."""
        self.push(subject)
        self.run("deploy", f"{subject.name}:1", "--endpoint", subject.name)

    def push(self, subject: Subject) -> None:
        """Register a subject's package; its code may run."""
        allowed = ["--allow-code", subject.code] if subject.code else []
        self.run("push", str(subject.package), *allowed)

    def client(self) -> rw.Client:
        """A client of both planes, with the admin key."""
        gateway, control, _ = self.ports
        return rw.Client(f"http://127.0.0.1:{gateway}", key=self.key, control_url=f"http://127.0.0.1:{control}")

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.home.parent / f"{self.home.name}.log"

    @property
    def key(self) -> str:
        """The admin key that `up` left for the command line."""
        document = json.loads((self.home / "context.json").read_text())
        return str(document["key"])

    def target(self, endpoint: str) -> Target:
        """Where wrk sends an endpoint's requests."""
        return Target(self.ports[0], f"/v1/models/{endpoint}:predict", f"Bearer {self.key}")

    def members(self) -> list[psutil.Process]:
        """The supervisor and everything that it started, directly or not, as far as it runs."""
        if self.process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self.process.pid)
            return [supervisor, *(child for child in supervisor.children(recursive=True) if _runs(child))]
        return []

    def worker_processes(self) -> list[psutil.Process]:
        """The gateway's worker processes."""
        return [member for member in self.members() if role_of(member) == "worker"]

    def runner_processes(self) -> list[psutil.Process]:
        """The processes that run versions apart from the workers."""
        return [member for member in self.members() if role_of(member) == "runner"]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "ROADWORTHY_HOME": str(self.home), **self.environment}


def role_of(process: psutil.Process) -> str:
    """ "worker", "runner", "agent", "control", or "other" (the supervisor, or no process any more)."""
    with suppress(psutil.Error):
        words = process.cmdline()
        return next((role for module, role in ROLES.items() if module in words), "other")
    return "other"


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


@contextmanager
def installed(
    folder: Path, subjects: list[Subject], core: int | None = None, workers: int | None = None
) -> Iterator[Service]:
    """A fresh installation that serves the subjects; stopped at the end."""
    service = Service(folder / "home", core, workers=workers)
    service.start()
    try:
        service.wait_ready()
        for subject in subjects:
            service.deploy(subject)
        yield service
    finally:
        service.stop()


def ask(service: Service, subject: Subject) -> bool:
    """One row; whether the answer came and is right."""
    target = service.target(subject.name)
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=PATIENCE_S)
    headers = {"Content-Type": "application/json", "Authorization": target.authorization or ""}
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request("POST", target.path, json.dumps({"instances": [subject.rows[0].tolist()]}), headers)
        reply = connection.getresponse()
        body = reply.read()
        if reply.status == 200:
            given = json.loads(body)["predictions"][0]["probabilities"][1]
            return bool(abs(given - subject.right[0]) <= 1e-5)
    return False


def wait_for_answer(url: str, timeout_s: float) -> None:
    """Return when `url` answers 200; TimeoutError when it does not."""

    def answers() -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(url, timeout=PATIENCE_S).status_code == 200
        return False

    wait_until(answers, f"an answer at {url}", timeout_s)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Return when the condition holds; TimeoutError when it does not."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {timeout_s:g} s")
        time.sleep(0.02)
