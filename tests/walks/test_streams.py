"""A model that answers in parts on the road of every model: packed, pushed, deployed, asked, and judged as a canary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

import roadworthy as rw
from tests.machine import Machine
from tests.waiting import DEADLINE_S, NO_TLS, eventually

ROWS = pd.DataFrame({"prompt": ["the quick brown fox", "hello"]})
PLAN = {"strategy": "canary", "steps": [50, 100], "hold": "10m", "criteria": ["errors"]}


def steady(rows: Any) -> Iterator[str]:
    """One part for each word."""
    yield from rows["prompt"].iloc[0].split()


def broken(rows: Any) -> Iterator[str]:
    """The same, but fails after the first part of a question."""
    for word in rows["prompt"].iloc[0].split():
        yield word
        if rows["prompt"].iloc[0].endswith("?"):
            raise ValueError("no answer")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Both versions, and the first one in service."""
    made = Machine(tmp_path)
    for number, model in enumerate((steady, broken), start=1):
        made.packages.append(rw.pack(model, name="words", inputs=ROWS, out=tmp_path / f"dist{number}"))
    with made.serving("words"):
        yield made


def test_a_canary_whose_answers_break_off_goes_back(machine: Machine) -> None:
    """Each of its answers begins with 200 and its first part; the failures after it roll it back. Callers that leave do not."""
    context = machine.context()
    headers = {"Authorization": f"Bearer {context['key']}", "Accept": "text/event-stream"}
    url = f"{context['gateway_url']}/v1/models/words:predict"

    def ask(prompt: str) -> httpx.Response:
        return httpx.post(url, json={"instances": [[prompt]]}, headers=headers, timeout=DEADLINE_S, verify=NO_TLS)

    def leave() -> None:
        body = {"instances": [["who is it ?"]]}
        with httpx.stream("POST", url, json=body, headers=headers, timeout=DEADLINE_S, verify=NO_TLS) as reply:
            next(reply.iter_raw())

    assert ask("one two").text.count("data: ") == 3
    with rw.Client(context["gateway_url"], key=context["key"], control_url=context["control_url"]) as client:
        assert client.predict("words", [["one two"]]).predictions == ["one", "two"]
        client.rollouts.start("words", "words:2", PLAN)
        eventually(lambda: client.rollouts.get("words").share == 50, "the canary has traffic")
        begun = {ask("hello there ?").status_code for _ in range(10)}
        assert begun == {200}
        leave()
        eventually(lambda: ask("hello there ?") and client.rollouts.get("words").outcome == "rolled-back", "it goes back")
        ended = client.rollouts.get("words")
        assert ended.code == "worse", ended
    assert "event: error" not in ask("hello there ?").text
