"""The pure decision whether a pending version takes over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roadworthy.contract.telemetry import FAILED, LOADING, READY, VersionState, WorkerReport
from roadworthy.rollout.decide.switch import Refuse, Switch, Wait, decide

STATES = st.sampled_from([None, LOADING, READY, FAILED])


def worker(slot: int, state: str | None) -> WorkerReport:
    """A worker with the package in a state, or without it."""
    states = () if state is None else (VersionState("d", state),)
    return WorkerReport(slot, 1, "b", None, 0, 0, (*states, VersionState("other", READY)))


@given(st.lists(STATES, max_size=8))
def test_traffic_moves_exactly_when_all_are_ready(states: list[str | None]) -> None:
    """Switch needs at least one worker and all of them READY; one FAILED refuses; all else waits."""
    verdict = decide("d", [worker(n, state) for n, state in enumerate(states)])
    if FAILED in states:
        assert isinstance(verdict, Refuse)
    elif states and set(states) == {READY}:
        assert isinstance(verdict, Switch)
    else:
        assert isinstance(verdict, Wait)
        assert verdict.reason
