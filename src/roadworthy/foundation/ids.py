"""Ids: of predictions, made without a system call in the hot path; of rarely made things; of requests, as callers give them."""

from __future__ import annotations

import os
import re
import secrets
import time

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")


class PredictionIds:
    """Time-ordered 128-bit ids: 48 bits of milliseconds, 40 bits of this process, 40 bits of a counter; 32 hex digits.

    One object per worker process. The process part is random at start, so restarts never repeat an id.
    """

    __slots__ = ("_counter", "_prefix", "_stamp", "_stamp_text")

    def __init__(self) -> None:
        self._prefix = os.urandom(5).hex()
        self._counter = 0
        self._stamp = -1
        self._stamp_text = ""

    def next(self) -> str:
        """A new id, greater than all earlier ones of this object unless the wall clock steps back."""
        stamp = time.time_ns() // 1_000_000
        if stamp != self._stamp:
            self._stamp = stamp
            self._stamp_text = f"{stamp:012x}{self._prefix}"
        self._counter += 1
        return f"{self._stamp_text}{self._counter:010x}"


def request_id(asked: bytes | None) -> str | None:
    """The caller's X-Request-Id, or None when it is missing or not safe to repeat: 1 to 128 letters, digits and ._~:/+=@-."""
    return None if asked is None or not _REQUEST_ID.fullmatch(asked) else asked.decode("ascii")


def random_id(prefix: str) -> str:
    """`prefix-` and 16 random hex digits, for rarely made ids: gateways, keys, boots, operations."""
    return f"{prefix}-{secrets.token_hex(8)}"
