"""Facts of rollouts, their sentences, and sentences that the store has from before there were facts."""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec
import numpy as np
from sqlalchemy import update

import roadworthy
from roadworthy.control.resources.rollout_documents import members
from roadworthy.rollout import rollouts, words
from roadworthy.rollout.decide.machine import begin
from roadworthy.rollout.facts import fact, of_signal
from roadworthy.rollout.plan.parse import check_plan
from roadworthy.rollout.rollouts import Rollout
from roadworthy.rollout.words import say
from roadworthy.store import tables
from roadworthy.store.engine import open_database

SHIPPED = Path(roadworthy.__file__).parent
PLAN = check_plan({"strategy": "canary", "watch": ["drift"]})


def test_every_kind_of_fact_has_a_sentence_and_the_other_way_round() -> None:
    """Among the kinds that the code writes down."""
    rooms = (SHIPPED / "rollout", SHIPPED / "control")
    texts = [file.read_text() for room in rooms for file in room.rglob("*.py") if file != Path(words.__file__)]
    named = {kind for text in texts for kind in re.findall(r'\bfact\(\s*"([^"]+)"', text)}
    known = set(words._WORDS)
    assert named - known == set()
    assert {kind for kind in known if not any(f'"{kind}"' in text for text in texts)} == set()


def test_a_fact_without_a_sentence_is_shown_as_it_is() -> None:
    """A later release may have stored it; no figure is lost, and nothing fails."""
    assert say(fact("of-later", times=3, why=fact("paused"))) == "of-later (times 3, why paused by a person)"
    assert say(fact("of-later")) == "of-later"
    assert say(fact("crashed")) == "crashed"
    assert say(fact("shift", label="x", shift=None)) == "shift (label x, shift None)"


def test_a_sentence_from_another_source_stays_as_it_is() -> None:
    """Alone and within a fact, whatever characters it has."""
    assert say("no {place} for {0}") == "no {place} for {0}"
    assert say(of_signal("moody", "no {place} for {0}")) == "moody: no {place} for {0}"


def test_a_stored_rollout_of_an_earlier_release_is_read_with_its_sentences() -> None:
    """They were in the state, the verdict, its findings, and the watched signals."""
    database = open_database("sqlite://")
    with database.begin() as connection:
        begun = begin("r-1", 4)
        rollouts.create(connection, Rollout("r-1", "flights", "m:1", "d-1", "m:2", "d-2", PLAN, begun, 1, "me"))
        finding = {"signal": "errors", "outcome": "FAIL", "code": "worse", "text": "errors: canary 3 of 3"}
        verdict = {"outcome": "FAIL", "code": "worse", "text": "errors: canary 3 of 3", "findings": [finding]}
        alarms = [{"signal": "drift", "samples": 9, "raised": True, "text": "label: 20.0% of answers differ"}]
        state = {**msgspec.to_builtins(begun), "phase": "RETURNING", "code": "worse", "text": verdict["text"], "alarms": alarms}
        encoded = {name: msgspec.json.encode(each).decode() for name, each in (("state", state), ("verdict", verdict))}
        connection.execute(update(tables.rollouts).values(**encoded))
        found = rollouts.get(connection, "flights", "r-1")
        shown = members(connection, rollouts.change(connection, found))
    assert (shown["code"], shown["text"]) == ("worse", "errors: canary 3 of 3")
    assert shown["verdict"].text == shown["verdict"].findings[0].text == "errors: canary 3 of 3"
    assert shown["watched"][0].text == "label: 20.0% of answers differ"
    database.close()


def test_figures_of_other_types_are_made_plain() -> None:
    """What numpy or a plug-in returns must not keep a state from being written."""
    odd = fact(
        "bin-between", low=np.float32(0.5), high=np.int64(3), label=np.str_("x"), other=["a"], whys=(np.str_("y"), fact("paused"))
    )
    assert msgspec.json.decode(msgspec.json.encode(odd), type=type(odd)) == odd
    assert say(odd) == "from 0.5 to 3"


def test_infinite_figures_keep_their_sentence_in_the_store() -> None:
    """JSON has no such numbers."""
    why = fact("metric", metric="nan", canary=np.float32("nan"), stable=math.inf, low=-math.inf, high=math.inf)
    assert say(why) == "nan: mean nan, the stable's inf; the difference is -inf to +inf"
    read = msgspec.json.decode(msgspec.json.encode(why), type=type(why))
    assert (read, say(read)) == (why, say(why))


def test_facts_within_facts_survive_the_store() -> None:
    """Also next to texts, with every kind of figure."""
    why = fact("undecided", step=2, missing=(of_signal("slow", fact("too-few", samples=3, needed=2_000)), "said", fact("paused")))
    state = msgspec.structs.replace(begin("r", 1), why=why)
    read = msgspec.json.decode(msgspec.json.encode(state), type=type(state))
    assert read == state
    missing = "slow: 3 of the 2,000 samples that the step needs; said; paused by a person"
    assert say(read.why) == f"no decision before the deadline; missing in step 2: {missing}"
