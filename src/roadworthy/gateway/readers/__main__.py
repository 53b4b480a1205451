"""A reader process, `python -m roadworthy.gateway.readers`. A worker starts it with a socket as its standard input, and the
distributions whose plug-ins it may load as its arguments.

It reads one body at a time and has nothing but the body, the endpoint's signature and the limits of its policy. It ends when the
worker is gone.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import sys
from functools import lru_cache
from typing import Any

from roadworthy.codecs.codec import Chooser
from roadworthy.codecs.reading.bounds import Bounds
from roadworthy.foundation import plugins
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.gateway.readers import jobs
from roadworthy.schema.signature import Signature

_PR_SET_PDEATHSIG = 1
_NICE = 10
"""On a busy machine the workers come first, so that a large body delays only its own sender."""


def main() -> int:
    """Read until the worker is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the worker ends this one
    os.nice(_NICE)
    plugins.allow(sys.argv[1:])
    if sys.platform.startswith("linux"):
        # Ends this process even when the worker is killed while this process is stopped or busy in a library.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with socket.socket(fileno=os.dup(0)) as end:
        while (message := jobs.receive(end)) is not None:
            result, parts = _answer(message)
            message[1].close()
            jobs.send(end, result, parts)
    return 0


def _answer(message: tuple[bytes, mmap.mmap, int]) -> tuple[jobs.Result, list[bytes]]:
    spec, headers, body = jobs.read_job(*message)
    try:
        chooser, bounds = _made(spec)
        protocol = chooser.choose(headers)
        return jobs.write_result(protocol, protocol.decode(headers, body), bounds)
    except RoadworthyError as error:
        return jobs.write_refusal(error), []
    except Exception as error:  # noqa: BLE001 - the worker logs it and answers; the next body must still be read
        return jobs.Result(fault=type(error).__name__), []


@lru_cache(64)
def _made(spec: bytes) -> tuple[Chooser, Bounds]:
    read: Any = jobs.read_spec(spec)
    return read.make(), Bounds(Signature.from_document(read.signature).inputs, read.policy)


if __name__ == "__main__":
    sys.exit(main())
