"""A supervisor as a process, and what its children wrote into their log."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import DEADLINE_S, eventually

HERE = Path(__file__).parent
CHILD = (sys.executable, str(HERE / "child.py"))


def is_running(pid: int) -> bool:
    """Whether the process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Running:
    """A supervisor process and what its children wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.log.touch()
        self.slab = folder / "slab"
        self.process: subprocess.Popen[bytes] | None = None
        self._said = folder / "said"

    def plan(self, name: str, fds: tuple[int, ...] = (), stage: int = 0, grace_s: float = DEADLINE_S, **more: Any) -> Any:
        """One plan, as JSON."""
        document = {"log": str(self.log), "name": name, **more}
        if "slot" in more:
            document |= {"slab": str(self.slab), "first_slot": more["slot"]}
        return {"name": name, "argv": CHILD, "document": document, "fds": fds, "stage": stage, "grace_s": grace_s}

    def start(
        self,
        *plans: Any,
        ready_s: float = DEADLINE_S,
        fds: tuple[int, ...] = (),
        under: tuple[str, ...] = (),
        **limits: Any,
    ) -> None:
        """Run the supervisor over the plans, by a program if one is named."""
        slab = str(self.slab) if any("slot" in plan["document"] for plan in plans) else ""
        command = [
            *under,
            sys.executable,
            str(HERE / "supervise.py"),
            json.dumps(plans),
            slab,
            str(ready_s),
            json.dumps(limits),
        ]
        with self._said.open("ab") as said:
            self.process = subprocess.Popen(command, pass_fds=fds, stderr=said)

    def said(self) -> str:
        """What the supervisor has logged."""
        return self._said.read_text()

    def events(self, event: str, name: str | None = None) -> list[tuple[str, int, str]]:
        """(name, pid, slot) of the lines with that event."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [(who, int(pid), slot) for who, what, pid, slot in lines if what == event and name in (None, who)]

    def wait_ready(self, count: int) -> None:
        """Until so many children said that they are ready, in all."""
        eventually(lambda: len(self.events("ready")) >= count, f"{count} ready")

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: int | None = None) -> int:
        """Send a signal and wait; the exit status. Nobody is left behind."""
        assert self.process is not None
        if number is not None:
            self.process.send_signal(number)
        self.process.wait(DEADLINE_S)
        assert not [pid for _, pid, _ in self.events("start") if is_running(pid)]
        return self.process.returncode


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A place for a supervisor; whatever is still there afterwards is killed."""
    place = Running(tmp_path)
    yield place
    if place.process is not None and place.process.poll() is None:
        place.process.kill()
        place.process.wait()
    for _, pid, _ in place.events("start"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
