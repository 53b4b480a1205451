"""A worker process whose packages are planted: the real main in everything but the loader. Run by path, like the real one.

Beside the worker's own keys the start document has "models": digest to {"kind", "signature"}. It may have "connect_s": for
how long a server of the shared cache is waited for; "linger_s": how long idle connections are kept at the end; and "hang_s": how
long one run may take.
"""

from __future__ import annotations

import fcntl
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.child import read_start_message
from roadworthy.foundation.errors import PackageRefused
from roadworthy.gateway.http import server
from roadworthy.gateway.worker import WorkerStart, serve
from roadworthy.runtime import manager
from roadworthy.runtime.logs import configure_logs
from roadworthy.runtime.placement import INLINE, Placed
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.signature import Signature
from roadworthy.serving.cache import shared as shared_cache

UNLUCKY = 13.0
SLOW = 99.0
GATED = -1.0


@dataclass(frozen=True)
class Described:
    """The package of a planted model."""

    signature: Signature


class Planted:
    """A model that sums its float inputs, or misbehaves as its kind says when the first one is UNLUCKY or SLOW.

    The kinds "held" and "held-too" are loaded when the test lets the worker of that slot. The kind "noting" adds the
    first input of each row to the file `ran`, then sleeps as many seconds as their second inputs say; where one says
    GATED, it waits at the gate instead (tests/gates.py).
    The kind "gated" adds them too, and then waits, for rows whose second input is not 0, until the file `gate` is there;
    "gated-inline" does the same as a model that runs on the event loop.
    """

    runtime = "planted"

    def __init__(self, kind: str, signature: Signature, ran: Path) -> None:
        self.package = Described(signature)
        self.concurrent = kind in ("sum", "echo", "not-finite", "gated-inline")
        self._kind = kind
        self._ran = ran
        self._outputs = Layout(signature.outputs)

    def run(self, batch: Batch) -> Batch:
        """Answer all rows."""
        if self._kind == "echo":
            return Batch(self._outputs, batch.rows, batch.blocks)
        values = batch.blocks[0].values.reshape(batch.rows, -1)
        unlucky = values[:, 0] == UNLUCKY
        total = values.sum(axis=1, keepdims=True).astype(np.float64)
        if self._kind == "poison" and unlucky.any():
            raise RuntimeError("/secret/path of the model")
        if self._kind == "wrong-count" and unlucky.any():
            total = total[1:]
        if self._kind == "not-finite":
            total[unlucky] = np.nan
        if self._kind == "off-by-one":
            total += 1
        if self._kind == "slow" and (values[:, 0] == SLOW).any():
            time.sleep(1.0)
        if self._kind == "noting":
            with self._ran.open("a") as ran:
                ran.writelines(f"{value:g}\n" for value in values[:, 0])
            if (values[:, 1] == GATED).any():
                with self._ran.with_name("gate").open() as gate:
                    fcntl.flock(gate, fcntl.LOCK_SH)
            else:
                time.sleep(float(values[:, 1].sum()))
        if self._kind in ("gated", "gated-inline"):
            with self._ran.open("a") as ran:
                ran.writelines(f"{value:g}\n" for value in values[:, 0])
            while values[:, 1].any() and not self._ran.with_name("gate").exists():
                time.sleep(0.005)
        return Batch(self._outputs, len(total), (Block(total),))

    def close(self) -> None:
        """Nothing to release."""


def main() -> None:
    """Run a worker with planted models. A digest is loadable while packages/ has a file named by its hex digits."""
    document = read_start_message()
    models = document.pop("models")
    shared_cache.CONNECT_S = document.pop("connect_s", shared_cache.CONNECT_S)
    server.LINGER_S = document.pop("linger_s", server.LINGER_S)
    placed = None
    if "hang_s" in document:
        manager.LEAST_HANG_S = document.pop("hang_s")
        placed = Placed(INLINE, "planted", hang_s=manager.LEAST_HANG_S)
    start = msgspec.convert(document, WorkerStart)

    def load(entry: PackageEntry) -> Planted:
        plan = models[entry.digest]
        if plan["kind"] == "refused" or not Path(start.folder, "packages", entry.digest[7:]).exists():
            raise PackageRefused("planted refusal", code="package-refused")
        if plan["kind"] in ("held", "held-too"):
            Path(start.folder, f"{plan['kind']}-{start.slot}").read_bytes()  # a FIFO: until the test writes to it
        return Planted(plan["kind"], Signature.from_document(plan["signature"]), Path(start.folder, "ran"))

    configure_logs("worker", start.log_level)
    sys.exit(serve(start, load, None if placed is None else lambda *_: placed))


if __name__ == "__main__":
    sys.exit(main())
