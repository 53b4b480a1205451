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
from typing import IO, Any

import psutil

import roadworthy as rw
from tests.waiting import DEADLINE_S
from tests.warm import WarmProcess, nursery
from tests.warm_up import MODULES, UMASK

COMMAND = str(Path(sys.executable).with_name("roadworthy"))
WARM_UP = Path(__file__).with_name("warm_up.py")
FREE_PORTS = ("--port", "0", "--control-port", "0", "--metrics-port", "0", "--workers", "1")


def run_command(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run `roadworthy ARGUMENTS …` to its end, with its modules already imported, which would take longest. With `up -d`, that
    holds for the processes that it leaves running, too. `python`: the interpreter of its environment."""
    return nursery(*MODULES, python=python).run([WARM_UP, *arguments], cwd=cwd, env=env, timeout=4 * DEADLINE_S)


def start_command(
    arguments: Sequence[str], *, stderr: IO[bytes], env: Mapping[str, str], cwd: Path | None = None, cold: bool = False
) -> tuple[WarmProcess | subprocess.Popen[bytes], IO[str]]:
    """Start `roadworthy ARGUMENTS …` in the foreground, warm unless stated otherwise; return it and its standard output."""
    reader, writer = os.pipe()
    process: WarmProcess | subprocess.Popen[bytes]
    if cold:
        process = subprocess.Popen(
            [COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=writer, stderr=stderr, cwd=cwd, env=env
        )
    else:
        process = nursery(*MODULES).start([WARM_UP, *arguments], stdout=writer, stderr=stderr.fileno(), cwd=cwd, env=env)
        assert process.stdin is not None
        process.stdin.close()
    os.close(writer)
    return process, os.fdopen(reader)


class WarmCommands:
    """Python's module in the form that `bench.service` uses, whose commands run warm; those pinned to a core start as usual."""

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(  # noqa: N802  Python's name
        self, command: Sequence[str], *, env: Mapping[str, str], stderr: IO[bytes], umask: int, **options: Any
    ) -> WarmProcess | subprocess.Popen[bytes]:
        """Start a command in the foreground."""
        if command[0] != COMMAND:
            return subprocess.Popen(command, env=env, stderr=stderr, umask=umask, **options)
        to, own = stderr.fileno(), {} if umask == -1 else {UMASK: str(umask)}
        process = nursery(*MODULES).start([WARM_UP, *command[1:]], stdout=to, stderr=to, env={**env, **own})
        assert process.stdin is not None
        process.stdin.close()
        return process

    def run(
        self, command: Sequence[str], *, env: Mapping[str, str], umask: int, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        if command[0] != COMMAND:
            return subprocess.run(command, env=env, umask=umask, check=False, **options)
        own = {} if umask == -1 else {UMASK: str(umask)}
        return run_command(command[1:], cwd=Path.cwd(), env={**env, **own})


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
    cold: bool = False
    """Whether `up` and the processes that it starts begin as for users: with an interpreter and an environment of their own."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
        return {**clean, "ROADWORTHY_HOME": str(self.home)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, successful or not; warm unless stated otherwise."""
        if not self.under and not (self.cold and arguments[0] == "up"):
            umask = {} if self.umask == -1 else {UMASK: str(self.umask)}
            return run_command(arguments, cwd=self.folder, env={**self.environment, **umask})
        return subprocess.run(
            [*self.under, COMMAND, *arguments],
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
