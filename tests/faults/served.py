"""`roadworthy serve` with two workers, as users run it, and the small package that it serves."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil

import roadworthy as rw
from tests.graphs import sum_graph
from tests.waiting import DEADLINE_S

COMMAND = str(Path(sys.executable).with_name("roadworthy"))


def pack_sum(folder: Path) -> Path:
    """A small native model, which executes in the workers: [[1, 2]] gives 3."""
    file = sum_graph(folder, 2)
    return rw.pack(
        file, name="sum", inputs=np.random.default_rng(0).random((40, 2)).astype(np.float32), out=folder
    ).path


class Served:
    """`roadworthy serve` with two workers."""

    def __init__(self, packed: Path, home: Path, **environment: str) -> None:
        self.log = home / "err"
        options = ["--port", "0", "--metrics-port", "0", "--workers", "2", "--no-auth", "--home", str(home), "--json"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [COMMAND, "serve", str(packed), *options],
                stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **environment},
            )  # fmt: skip
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        while text and not text.rstrip().endswith("}"):
            text += self.process.stdout.readline()
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
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status
