"""The next version to load or unload."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roadworthy.runtime.policy import Forget, Load, State, Unload, next_action

DIGESTS = st.sampled_from("abcde")


def test_loads_in_the_order_of_urgency_one_at_a_time() -> None:
    """The first wanted version is loaded; the next one only after that."""
    assert next_action(["a", "b"], [], {}) == Load("a")
    assert next_action(["a", "b"], [], {"a": State.LOADING}) is None
    assert next_action(["a", "b"], [], {"a": State.READY}) == Load("b")
    assert next_action(["a", "b"], [], {"a": State.READY, "b": State.FAILED}) is None


def test_what_nobody_wants_goes_first() -> None:
    """Memory is freed before it is used."""
    assert next_action(["b"], [], {"a": State.READY}) == Unload("a")
    assert next_action(["b"], [], {"a": State.FAILED}) == Forget("a")


def test_what_answers_requests_stays() -> None:
    """A version of the split in service is not unloaded, although it is no longer wanted."""
    assert next_action(["b"], ["a"], {"a": State.READY, "b": State.READY}) is None


@given(st.lists(DIGESTS, unique=True), st.sets(DIGESTS), st.dictionaries(DIGESTS, st.sampled_from(list(State)), max_size=5))
def test_repeating_the_decision_ends_with_exactly_what_is_wanted(
    wanted: list[str], pinned: set[str], states: dict[str, State]
) -> None:
    """From any state, carrying out the actions ends with exactly the wanted versions loaded."""
    states = dict(states)
    for _ in range(30):
        states = {
            digest: State.READY if state is State.LOADING else state
            for digest, state in states.items()
            if state is not State.UNLOADING
        }
        action = next_action(wanted, pinned, states)
        if action is None:
            break
        if isinstance(action, Load):
            assert action.digest not in states
            states[action.digest] = State.LOADING
        elif isinstance(action, Unload):
            assert action.digest not in pinned
            states[action.digest] = State.UNLOADING
        else:
            del states[action.digest]
    assert next_action(wanted, pinned, states) is None
    assert set(wanted) <= set(states) <= set(wanted) | pinned
