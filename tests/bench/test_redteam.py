"""The short form of `make redteam` on a real installation; it reports an attack that succeeds, breaks or hangs."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.redteam import __main__ as redteam
from bench.redteam.attack import Attack, Finding, Ground, Line, carry_out
from bench.redteam.callers import Caller, Question
from tests.waiting import DEADLINE_S


def test_the_short_form_holds() -> None:
    """Forged packages of A.1, B.3, webhooks and keys of B.5, probes of C.11, C.12: nothing in them depends on speed."""
    lines = redteam.carry_all(redteam.chosen("", quick=True), stops=0, quiet=True, time_factor=10.0)
    assert [line for line in lines if line.holds is False] == []
    assert {line.item for line in lines} == {"A1", "B3", "B5", "C11", "C12"}


def test_every_item_is_attacked_and_can_be_chosen() -> None:
    """Items are chosen by name; an unknown name is an error."""
    items = [*dict.fromkeys(attack.item for attack in redteam.ATTACKS)]
    assert items == ["A1", "A2", "B3", "B4", "B5", "C6", "C7", "C8", "C9", "C10", "C11", "C12"]
    assert {attack.item for attack in redteam.chosen("c10, a1", quick=False)} == {"A1", "C10"}
    with pytest.raises(ValueError, match="unknown item: D1; the items are A1"):
        redteam.chosen("A1,D1", quick=False)


def succeeds(_ground: Ground) -> Iterator[Finding]:
    """An attack with one finding that holds, one that fails, and one that cannot be tried."""
    yield "first", "refused", True
    yield "second", "TAKEN", False
    yield "third", "unshare is refused here", None


def breaks(_ground: Ground) -> Iterator[Finding]:
    """An attack that shows nothing after its first finding."""
    yield "first", "refused", True
    raise OSError("no such installation")


def hangs(_ground: Ground) -> Iterator[Finding]:
    """An attack that never ends."""
    yield "first", "refused", True
    threading.Event().wait()


@pytest.mark.parametrize(("run", "came"), [(breaks, "could not be carried out"), (hangs, "not done after 0.5 s")])
def test_an_attack_that_shows_nothing_fails(run: Any, came: str, tmp_path: Path) -> None:
    """Its earlier findings remain."""
    lines = list(carry_out(Attack("X1", run, bound_s=0.5), Ground(tmp_path)))
    assert lines[0] == Line("X1", "first", "refused", holds=True)
    assert came in lines[1].came
    assert [line.holds for line in lines] == [True, False]


def test_the_exit_status_and_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """1 when an attack succeeds; an attack that could not be tried is not a failure."""
    monkeypatch.setattr(redteam, "ATTACKS", (Attack("X1", succeeds),))
    assert redteam.main(["--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [(line["item"], line["tried"], line["holds"]) for line in told] == [
        ("X1", "first", True), ("X1", "second", False), ("X1", "third", None),
    ]  # fmt: skip
    assert redteam.main(["--only", "x1"]) == 1
    printed, summary = capsys.readouterr()
    assert [line.split()[-1] for line in printed.splitlines()] == ["verdict", "holds", "FAILS", "tried"]
    assert summary == "1 hold, 1 fail, 1 not tried\n"


def test_a_reset_is_seen() -> None:
    """The negative control of C.9: a server that closes connections without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        caller = Caller(Question(server.getsockname()[1], "/", "{}"), keeps=True)
        caller.start()
        taken, _ = server.accept()
        taken.close()
    caller.join(DEADLINE_S)
    assert set(caller.outcomes) - {"refused"}
    assert "200" not in caller.outcomes
