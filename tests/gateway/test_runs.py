"""Requests of one run are counted, recorded and answered together, with the same result as one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from roadworthy.codecs.answers import Accepting
from roadworthy.gateway.http.predict import HttpPrediction
from roadworthy.runtime.pending import PendingRequest
from tests.gateway.test_long_answers import Edge, numbers, play
from tests.waiting import soon

JSON = {b"content-type": b"application/json"}
CSV = {**JSON, b"accept": b"text/csv"}
ONE, TWO = b'{"instances":[1]}', b'{"instances":[1,2]}'
MIXED = [("a", ONE, JSON), ("b", TWO, JSON), ("c", ONE, CSV), ("d", ONE, JSON), ("e", ONE, JSON), ("f", ONE, JSON)]


def begin(edge: Edge, name: str, body: bytes, headers: dict[bytes, bytes]) -> HttpPrediction:
    """A request whose rows wait for the model."""
    call = HttpPrediction(edge.predict, edge, headers, (name, name))
    edge.predict.open(call)
    edge.predict.run(call, body)
    return call


def ends(asked: list[Any], settle: Callable[[list[Any], Any], None], prepare: Callable[[list[Any]], None]) -> Any:
    """Replies, counts and records of these requests, which share a run; without latencies."""
    found: list[Any] = []

    async def scene(edge: Edge) -> None:
        prepare([begin(edge, *each) for each in asked])
        settle(edge.waiting, numbers(sum(batch.rows for batch, _ in edge.waiting)))
        await soon(lambda: not len(edge.scheduler), "all are written")
        replies = sorted((call.id, reply.status, reply.body, reply.headers, reply.head) for call, reply in edge.replies)
        rows = sorted((row[0], row[2], *row[4:], str(kind)) for kind, row in edge.records)
        found.extend((replies, sorted(edge.codes), rows, edge.rest()))

    play(scene)
    return found


def together(members: list[Any], joined: Any) -> None:
    """As a run settles its requests."""
    members[0][1].settle_run(members, joined)


def one_by_one(members: list[Any], joined: Any) -> None:
    """As requests without an edge's `settle_run` are settled."""
    PendingRequest.settle_run(members[0][1], members, joined)


def _leave(calls: list[Any]) -> None:
    calls[3].drop()


def _call_by_keys(calls: list[Any]) -> None:
    calls[1].caller = calls[-1].caller = "key-b"


@pytest.mark.parametrize("prepare", [lambda _: None, _leave, _call_by_keys])
@pytest.mark.parametrize("asked", [MIXED, MIXED[1:], MIXED[2:]])
def test_a_run_ends_as_its_requests_would(asked: list[Any], prepare: Callable[[list[Any]], None]) -> None:
    """One row or two, JSON or CSV, different callers, and one that has left."""
    found = ends(asked, together, prepare)
    assert found == ends(asked, one_by_one, prepare)
    assert found[3] == (0, 0, 0, 0)
    assert len(found[2]) == len(asked)


def test_a_run_is_settled_as_usual_where_that_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request alone has nothing to share; those with several rows would have them encoded twice."""
    encoded: list[object] = []
    monkeypatch.setattr(Accepting, "encode_rows", lambda _, joined: encoded.append(joined))
    for asked in (MIXED[:1], MIXED[1:2], [MIXED[1], ("g", TWO, JSON)]):
        ends(asked, together, lambda _: None)
    assert encoded == []
    ends(MIXED[:3], together, lambda _: None)
    assert len(encoded) == 1


def test_a_run_whose_rows_cannot_be_written_fails_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request is left without an answer."""

    def fail(*_: object) -> None:
        raise ValueError("no rows")

    monkeypatch.setattr(Accepting, "encode_rows", fail)
    assert ends(MIXED, together, lambda _: None) == ends(MIXED, one_by_one, lambda _: None)


def test_a_subclass_that_writes_its_own_answers_is_asked() -> None:
    """A codec of another distribution may override only the writing in steps."""
    asked: list[str] = []

    class Own(Accepting):
        def encode_in_steps(self, answer: Any, decoded: Any, version: int) -> Any:
            asked.append("own")
            return super().encode_in_steps(answer, decoded, version)

    assert Own(_Unused()).encode_rows(numbers(1)) is None  # type: ignore[arg-type]  # it asks for no answers


class _Unused:
    """Answers that nothing asks for."""
