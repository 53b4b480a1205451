"""A gateway worker with a planted leak: the negative control of bench/hostile.py and of tests/faults/test_hostile_memory.py.

It keeps LEAK_BYTES for every received segment. Run it by its path; an argument names another main function to run.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

from roadworthy.gateway.http.connection import Connection

LEAK_BYTES = 24 << 10
_kept: list[bytes] = []
_received = Connection.data_received


def _keep(self: Any, data: bytes) -> None:
    _kept.append(data.ljust(LEAK_BYTES, b"x"))
    _received(self, data)


if __name__ == "__main__":
    Connection.data_received = _keep  # type: ignore[method-assign]
    if sys.argv[1:]:
        runpy.run_path(sys.argv[1], run_name="__main__")
    else:
        runpy.run_module("roadworthy.gateway.worker", run_name="__main__")
