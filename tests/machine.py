"""A machine on which a user runs commands, with its own home folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import roadworthy as rw
from tests.waiting import DEADLINE_S
from tests.warm import nursery

COMMAND = str(Path(sys.executable).with_name("roadworthy"))
FREE_PORTS = ("--port", "0", "--control-port", "0", "--metrics-port", "0", "--workers", "1")


def run_command(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `roadworthy ARGUMENTS …` to its end, with its modules already imported, which would take longest."""
    warm = nursery("roadworthy.cli.main", "roadworthy.client.client", "rich.live", "rich.progress")
    return warm.run(["-m", "roadworthy.cli.main", *arguments], cwd=cwd, env=env, timeout=4 * DEADLINE_S)


@dataclass
class Machine:
    """A home folder and the commands that run in it."""

    folder: Path
    packages: list[rw.Package] = field(default_factory=list)
    models: list[Any] = field(default_factory=list)
    under: tuple[str, ...] = ()
    """A program that runs the command, with its arguments."""
    umask: int = -1
    """The command's umask; -1 keeps the test's own."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
        return {**clean, "ROADWORTHY_HOME": str(self.home)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, successful or not: `up` from a new process, others warm unless stated otherwise."""
        if arguments[0] != "up" and not self.under and self.umask == -1:
            return run_command(arguments, cwd=self.folder, env=self.environment)
        return subprocess.run(
            [*self.under, COMMAND, *arguments],
            umask=self.umask,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=4 * DEADLINE_S,
            check=False,
        )

    def tell(self, *arguments: str) -> Any:
        """The JSON output of a command that must succeed."""
        result = self.run(*arguments, "--json")
        assert result.returncode == 0, result.stderr + self.log()
        return json.loads(result.stdout)

    def log(self) -> str:
        """The detached processes' log."""
        path = self.home / "logs" / "roadworthy.log"
        return path.read_text() if path.exists() else ""

    def context(self) -> dict[str, str]:
        """The context that `up` stored for the command line."""
        document: dict[str, str] = json.loads((self.home / "context.json").read_text())
        return document

    @contextmanager
    def serving(self, endpoint: str, *arguments: str) -> Iterator[None]:
        """Start, register all packages with their code allowed, and serve the first one until the end of the block.

        `arguments` are those of `up` in addition to the ports.
        """
        started = self.run("up", "-d", *FREE_PORTS, *arguments)
        assert started.returncode == 0, started.stderr + self.log()
        try:
            for packed in self.packages:
                self.tell("push", str(packed.path), "--allow-code", packed.digest)
            self.tell("deploy", f"{self.packages[0].name}:1", "--endpoint", endpoint)
            yield
        finally:
            self.run("stop")

    def family(self) -> list[psutil.Process]:
        """The supervisor and its children."""
        text = (self.home / "supervisor.pid").read_text()
        if not text:
            return []
        supervisor = psutil.Process(int(text))
        return [supervisor, *supervisor.children(recursive=True)]
