"""Prediction ids are unique and ordered by time; random ids carry their prefix."""

from __future__ import annotations

import re
import time

import pytest

from roadworthy.foundation.ids import PredictionIds, random_id, request_id


def test_ids_are_unique_and_grow() -> None:
    """Many ids of one maker are distinct, sorted, and 32 hex digits long."""
    ids = PredictionIds()
    made = [ids.next() for _ in range(5_000)]
    assert made == sorted(set(made))
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_two_makers_never_meet() -> None:
    """Another process, or the same one restarted, draws another prefix."""
    assert PredictionIds().next()[12:22] != PredictionIds().next()[12:22]


def test_ids_begin_with_the_time() -> None:
    """The first 12 digits are milliseconds since 1970."""
    before_ns = time.time_ns()
    made_ms = int(PredictionIds().next()[:12], 16)
    assert before_ns // 1_000_000 <= made_ms <= time.time_ns() // 1_000_000


def test_random_ids_carry_their_prefix() -> None:
    """`prefix-` and 16 hex digits, never the same twice."""
    one, other = random_id("gateway"), random_id("gateway")
    assert one != other
    assert re.fullmatch("gateway-[0-9a-f]{16}", one)


@pytest.mark.parametrize("asked", [b"mine-1", b"a" * 128, b"0af7651916cd43dd/00:1", b"user@host=+~._-"])
def test_a_safe_request_id_is_kept(asked: bytes) -> None:
    """Ids of usual tracers and proxies are."""
    assert request_id(asked) == asked.decode()


@pytest.mark.parametrize("asked", [None, b"", b"a" * 129, b"a b", b"a\n", b'"', b"\xc3\xa9", b"<x>"])
def test_an_unsafe_request_id_is_refused(asked: bytes | None) -> None:
    """It is repeated in headers, logs and records."""
    assert request_id(asked) is None
