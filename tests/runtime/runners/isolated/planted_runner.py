"""A runner process whose package is planted: the real life in everything but the loader. Run by path.

Beside the runner's own keys the start document has "kind" and "signature".
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.child import read_start_message
from roadworthy.foundation.errors import ModelFault, PackageRefused
from roadworthy.foundation.host import begin_hosting, leave
from roadworthy.runtime.logs import configure_logs
from roadworthy.runtime.runners.isolated.launch import RunnerStart
from roadworthy.runtime.runners.isolated.process import serve
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.signature import Signature

UNLUCKY = 13.0


@dataclass(frozen=True)
class Described:
    """The package of a planted model."""

    signature: Signature


class Planted:
    """Sums its floats; when the first of a row is UNLUCKY it does what its kind says.

    The kind "gated" does not answer rows whose second value is not 0 before the file `gate` lies in the runner's folder.
    """

    runtime = "planted"
    concurrent = False
    parts = None

    def __init__(self, kind: str, signature: Signature, folder: Path) -> None:
        self.package = Described(signature)
        self._deed = getattr(self, f"_{kind.replace('-', '_')}", None)
        self._kind = kind
        self._gate = folder.absolute() / "gate"
        self._outputs = Layout(signature.outputs)

    def run(self, batch: Batch) -> Batch:
        """Answer all rows."""
        if self._kind == "echo":
            return Batch(self._outputs, batch.rows, batch.blocks)
        values = batch.blocks[0].values
        total = values.sum(axis=1, keepdims=True)
        if self._kind == "slow":
            time.sleep(float(values[:, 1].sum()))
        while self._kind == "gated" and values[:, 1].any() and not self._gate.exists():
            time.sleep(0.005)
        if self._kind == "size":
            total = np.full((batch.rows, 1), float(batch.rows))
        if (values[:, 0] == UNLUCKY).any() and self._deed is not None:
            total = self._deed(total)
        return Batch(self._outputs, len(total), (Block(total),))

    def close(self) -> None:
        """Nothing to give back."""

    def _poison(self, total: Any) -> Any:
        raise RuntimeError("/secret/path of the model")

    def _wrong_count(self, total: Any) -> Any:
        return total[1:]

    def _wrong_type(self, total: Any) -> Any:
        return total.astype(np.float32)

    def _not_finite(self, total: Any) -> Any:
        return total * np.nan

    def _fault(self, total: Any) -> Any:
        raise ModelFault("planted", code="model-failed", hint="do not", facts={"n": 1, "odd": object()})

    def _segfault(self, total: Any) -> Any:
        ctypes.string_at(0)

    def _abort(self, total: Any) -> Any:
        os.abort()

    def _exit(self, total: Any) -> Any:
        sys.exit(3)

    def _loop(self, total: Any) -> Any:
        while True:
            pass

    def _hold_gil(self, total: Any) -> Any:
        ctypes.PyDLL(None).sleep(600)

    def _rude(self, total: Any) -> Any:
        print("printed by the model")
        print("complained by the model", file=sys.stderr)
        os.chdir("/")
        os.environ["PLANTED"] = "1"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"])
        stray = subprocess.Popen(["sleep", "600"], start_new_session=True)
        return np.full(total.shape, float(child.pid * 10_000_000 + stray.pid))

    def _fork(self, total: Any) -> Any:
        child = os.fork()
        while child == 0:
            signal.pause()
        return np.full(total.shape, float(child))

    def _where(self, total: Any) -> Any:
        return np.full(total.shape, float(len(list(Path().iterdir())) if "runners" in str(Path.cwd()) else -1))


def main() -> int:
    """Be a runner with a planted model."""
    document = read_start_message()
    kind, signature = document.pop("kind"), Signature.from_document(document.pop("signature"))
    start = msgspec.convert(document, RunnerStart)

    def load(_entry: PackageEntry) -> Planted:
        if kind == "refused":
            raise PackageRefused("planted refusal", code="package-refused")
        if kind == "load-raises":
            raise ZeroDivisionError("secret")
        if kind == "load-hangs":
            while True:
                time.sleep(0.01)
        if kind == "load-crashes":
            ctypes.string_at(0)
        return Planted(kind, signature, Path(start.folder))

    begin_hosting()
    configure_logs("runner", start.log_level)
    return serve(start, load)


if __name__ == "__main__":
    leave(main())
