"""`roadworthy serve` with two workers, as users run it, and the small package that it serves."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import numpy as np
import psutil

import roadworthy as rw
from tests.graphs import sum_graph
from tests.machine import start_command
from tests.waiting import DEADLINE_S


def pack_sum(folder: Path) -> Path:
    """A small native model, which executes in the workers: [[1, 2]] gives 3."""
    file = sum_graph(folder, 2)
    return rw.pack(file, name="sum", inputs=np.random.default_rng(0).random((40, 2)).astype(np.float32), out=folder).path


class Served:
    """`roadworthy serve` with two workers. `cold`: processes that import their modules themselves."""

    def __init__(self, packed: Path, home: Path, *, cold: bool = False, **environment: str) -> None:
        self.log = home / "err"
        options = ["--port", "0", "--metrics-port", "0", "--workers", "2", "--no-auth", "--home", str(home), "--json"]
        with self.log.open("ab") as log:
            self.process, self._stdout = start_command(
                ["serve", str(packed), *options], stderr=log, env={**os.environ, **environment}, cold=cold
            )
        text = self._stdout.readline()
        while text and not text.rstrip().endswith("}"):
            text += self._stdout.readline()
        found = re.search(r'"url": *"http://127\.0\.0\.1:(\d+)', text)
        assert found, text + self.log.read_text()
        self.port = int(found[1])

    def workers(self) -> set[int]:
        """The workers' process ids."""
        found = set()
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE and "roadworthy.gateway.worker" in child.cmdline():
                    found.add(child.pid)
        return found

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(DEADLINE_S)
        self._stdout.close()
        return status
