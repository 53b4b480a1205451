"""Waking the controllers, and waiting for their look."""

from __future__ import annotations

import threading

from roadworthy.control.controllers.wake import Wake
from tests.waiting import DEADLINE_S, eventually


def test_calls_during_a_look_become_one_further_look() -> None:
    """However many there are; without a call, the wait ends after its time."""
    wake = Wake()
    wake.ring()
    first = wake.wait(DEADLINE_S)
    wake.ring()
    wake.ring()
    wake.looked(first)
    second = wake.wait(DEADLINE_S)
    assert second == first + 2
    wake.looked(second)
    assert wake.wait(0.0) == second


def test_a_verb_waits_for_a_look_that_began_after_it() -> None:
    """A look in progress does not count: it may have read the store before the verb wrote."""
    wake = Wake()
    wake.ring()
    looking = wake.wait(DEADLINE_S)
    verb = threading.Thread(target=wake.followed, args=(DEADLINE_S,))
    verb.start()
    eventually(lambda: wake.wait(0.0) > looking, "the verb has called")
    wake.looked(looking)
    assert verb.is_alive()
    wake.looked(wake.wait(DEADLINE_S))
    verb.join()


def test_where_no_controllers_run_nothing_is_waited_for() -> None:
    """Neither before they start nor after they have ended."""
    wake = Wake()
    wake.followed(DEADLINE_S)
    assert wake.wait(0.0) == 1
    verb = threading.Thread(target=wake.followed, args=(DEADLINE_S,))
    verb.start()
    eventually(lambda: wake.wait(0.0) == 2, "the verb has called")
    wake.end()
    verb.join()


def test_a_verb_ends_the_rest_after_a_look() -> None:
    """Frames do not: they leave the store to others for that time."""
    wake = Wake()
    wake.looked(wake.wait(0.0))
    wake.ring()
    wake.rest(0.01)
    verb = threading.Thread(target=wake.followed, args=(DEADLINE_S,))
    verb.start()
    wake.rest(DEADLINE_S)
    assert wake.wait(0.0) == 2
    wake.looked(2)
    verb.join()
