"""Roadworthy as a user starts it: `roadworthy up` with its defaults in its own home folder, pinned to a core."""

from __future__ import annotations

import http.client
import json
import os
import ssl
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
from bench.load.traffic import TIMEOUT_S
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
"""The roles of our processes, by the module that they run."""
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""`verify` of clients for http:// addresses. Loading the machine's certificates takes longer than most requests."""


@dataclass
class Service:
    """One installation below `home`.

    Attributes:
        home: its ROADWORTHY_HOME. core: the CPU core of all its processes, or None for all cores.
        ports: gateway, control plane, metrics.
        workers: number of worker processes; None for the default.
        verb: the command to start, `up`, `gateway` or `control`, with its options.
        environment: variables in addition to those of this process. umask: of all its processes; -1 for this process's own.
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
        """Start it as a child in the foreground; returns at once."""
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
        """End it as Ctrl-C would, and wait; return its exit status, 0 if it was not running."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process = None

    def wait_ready(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the control plane and the gateway answer their probes."""
        gateway, control, _ = self.ports
        for url in (f"http://127.0.0.1:{control}/readyz", f"http://127.0.0.1:{gateway}/livez"):
            wait_for_answer(url, timeout_s)

    def run(self, *arguments: str) -> str:
        """Run a command against this installation; return its output."""
        result = self.attempt(*arguments)
        if result.returncode != 0:
            raise RuntimeError(f"roadworthy {' '.join(arguments)}: {result.stdout}{result.stderr}")
        return result.stdout

    def attempt(self, *arguments: str, under: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """As `run`, but return the result even if the command fails. `under`: a program that runs the command."""
        return subprocess.run(
            [*under, COMMAND, *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=4 * TIMEOUT_S,
            check=False,
            umask=self.umask,
        )

    def deploy(self, subject: Subject) -> None:
        """Push a subject's package and serve it at the endpoint of its name."""
        self.push(subject)
        self.run("deploy", f"{subject.name}:1", "--endpoint", subject.name)

    def push(self, subject: Subject) -> None:
        """Register a subject's package, with its code allowed."""
        allowed = ["--allow-code", subject.code] if subject.code else []
        self.run("push", str(subject.package), *allowed)

    def client(self) -> rw.Client:
        """A client of both planes, with the admin key."""
        gateway, control, _ = self.ports
        return rw.Client(f"http://127.0.0.1:{gateway}", key=self.key, control_url=f"http://127.0.0.1:{control}")

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self.home.parent / f"{self.home.name}.log"

    @property
    def key(self) -> str:
        """The admin key that `up` stored for the command line."""
        document = json.loads((self.home / "context.json").read_text())
        return str(document["key"])

    def target(self, endpoint: str) -> Target:
        """The target of requests to an endpoint."""
        return Target(self.ports[0], f"/v1/models/{endpoint}:predict", f"Bearer {self.key}")

    def members(self) -> list[psutil.Process]:
        """The running processes of the installation: the supervisor and all its descendants."""
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
        """The runner processes, which execute versions outside the workers."""
        return [member for member in self.members() if role_of(member) == "runner"]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "ROADWORTHY_HOME": str(self.home), **self.environment}


def role_of(process: psutil.Process) -> str:
    """ "worker", "runner", "agent", "control", or "other" (the supervisor, or an ended process)."""
    with suppress(psutil.Error):
        words = process.cmdline()
        return next((role for module, role in ROLES.items() if module in words), "other")
    return "other"


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


@contextmanager
def installed(folder: Path, subjects: list[Subject], core: int | None = None, workers: int | None = None) -> Iterator[Service]:
    """A new installation that serves the subjects; stopped at the end of the block."""
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
    """Ask for one row; return whether the right answer came."""
    target = service.target(subject.name)
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=TIMEOUT_S)
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
    """Wait until `url` answers 200; TimeoutError if it does not."""

    def answers() -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(url, timeout=TIMEOUT_S, verify=NO_TLS).status_code == 200
        return False

    wait_until(answers, f"an answer at {url}", timeout_s)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until the condition holds; TimeoutError if it does not."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.02)
