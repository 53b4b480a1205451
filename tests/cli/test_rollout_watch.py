"""`roadworthy rollout watch` on a real terminal and off it, against a real control plane and a fake data plane."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import convert

from roadworthy.cli.commands.rollout_texts import details
from roadworthy.contract.api import rollouts as api
from tests.cli.conftest import COMMAND, read
from tests.cli.terminal import Screen, Terminal
from tests.conftest import eventually
from tests.control.fleet import Fleet, current, follow_until, tell
from tests.control_plane import ControlProcess
from tests.waiting import DEADLINE_S

PLAN = ("--steps", "5,100", "--hold", "10m", "--evidence", "10", "--criteria", "errors")
Rollout = Callable[..., Any]
Watch = Callable[..., Terminal]


@pytest.fixture
def environment(tmp_path: Path, control: ControlProcess) -> dict[str, str]:
    """Options of commands that call the control plane."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
    own = {"ROADWORTHY_HOME": str(tmp_path / "home"), "ROADWORTHY_KEY": control.admin_key, "TERM": "xterm"}
    return {**clean, **own, "ROADWORTHY_CONTROL_URL": control.url}


@pytest.fixture
def watch(tmp_path: Path, environment: dict[str, str]) -> Watch:
    """Runs `roadworthy rollout watch line …` on a terminal."""

    def run(*arguments: str, **more: str) -> Terminal:
        command = (COMMAND, "rollout", "watch", "line", *arguments)
        return Terminal(command, tmp_path, {**environment, **more})

    return run


def test_one_picture_moves_on_a_terminal(rollout: Rollout, watch: Watch, fleet: Fleet, admin: httpx.Client) -> None:
    """Step, share, both versions, evidence, reason for waiting and time left, in one place; the last view stays."""
    read(rollout("start", "line", "line:2", *PLAN, "--json"))
    with watch("--exit-status") as terminal:

        def seen(*texts: str) -> None:
            follow_until(fleet, admin, lambda _: all(text in terminal.screen.text for text in texts))

        seen("line: line:1 -> line:2", "stepping, step 1 of 2, 5 %", "[5 %], 100 %", "left in step", "deadline in")
        fleet.serve(200, canary_bad=1)
        seen("errors     HOLD     1 of 10     0 of 190    10.5", "BACK AT", "(minimum-time)")
        fleet.serve(200, canary_bad=5)
        seen("rolled-back, step 1 of 2, 0 %", "errors     FAIL     6 of 20     0 of 380", "decided by controller")
        assert terminal.wait() == 1
        assert terminal.screen.text.count("stands at") == 1  # drawn over, not below each other
        assert terminal.raw.count("stands at") > 3
        assert all(len(line) <= terminal.columns for line in terminal.screen.text.splitlines())


def test_the_screen_of_these_tests_is_no_more_than_a_terminal() -> None:
    """A view that is printed again instead of redrawn appears twice."""
    screen = Screen()
    screen.feed("one\r\ntwo\r\n\x1b[1A\x1b[2Kthree\r\none\r\n")
    assert screen.text == "one\nthree\none\n"


def test_what_a_person_can_do_stands_there(rollout: Rollout, watch: Watch, fleet: Fleet, admin: httpx.Client) -> None:
    """For a paused rollout it names the command that continues it; after an interrupt only watching ends."""
    read(rollout("start", "line", "line:2", *PLAN, "--json"))
    follow_until(fleet, admin, lambda found: found["share"] == 5)
    tell(admin, "pause")
    with watch() as terminal:
        follow_until(fleet, admin, lambda _: "`roadworthy rollout resume line` continues it" in terminal.screen.text)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 130
        assert "the rollout continues; `roadworthy rollout abort line` ends it" in terminal.screen.text
    assert current(admin)["phase"] == "stepping"


def test_a_control_plane_that_is_away_is_waited_for(
    rollout: Rollout, watch: Watch, fleet: Fleet, admin: httpx.Client, control: ControlProcess
) -> None:
    """Watching adds a note to the last document, and continues when it is back. At the first request it is an error."""
    read(rollout("start", "line", "line:2", *PLAN, "--json"))
    follow_until(fleet, admin, lambda found: found["share"] == 5)
    with watch() as terminal:
        follow_until(fleet, admin, lambda _: "5 %" in terminal.screen.text)
        control.kill()
        eventually(lambda: "the control plane does not answer" in terminal.screen.text, "it says so")
        assert "stepping, step 1 of 2, 5 %" in terminal.screen.text
        with watch() as other:
            assert other.wait() == 5
            assert "code: unreachable" in other.screen.text
        control.start(httpx.URL(control.url).port or 0)
        follow_until(fleet, admin, lambda _: "does not answer" not in terminal.screen.text)
        tell(admin, "abort")
        follow_until(fleet, admin, lambda _: "aborted, step 1 of 2, 0 %" in terminal.screen.text)
        assert terminal.wait() == 0


def test_lines_where_no_picture_can_move(
    rollout: Rollout, watch: Watch, fleet: Fleet, admin: httpx.Client, tmp_path: Path, environment: dict[str, str]
) -> None:
    """To a file, and on a terminal that cannot redraw: each change is a line at once, counts alone every ten seconds."""
    read(rollout("start", "line", "line:2", *PLAN, "--json"))
    with (tmp_path / "log").open("wb") as log, watch(TERM="dumb") as dumb:
        command = [COMMAND, "rollout", "watch", "line"]
        logged = subprocess.Popen(command, env=environment, stdout=log, stdin=subprocess.DEVNULL)
        try:
            follow_until(fleet, admin, lambda _: "5 %" in dumb.raw and "5 %" in (tmp_path / "log").read_text())
            for _ in range(10):
                fleet.serve(100)
                follow_until(fleet, admin, lambda found: found["verdict"]["findings"][0]["samples"] > 0)
            fleet.serve(100, canary_bad=5)
            follow_until(fleet, admin, lambda found: found["phase"] == "finished")
            assert (logged.wait(DEADLINE_S), dumb.wait()) == (0, 0)
        finally:
            logged.kill()
            logged.wait()
    for text in ((tmp_path / "log").read_text(), dumb.raw.replace("\r", "")):
        assert "\x1b" not in text
        lines = text.splitlines()
        assert lines[-1][9:].startswith("rolled-back, step 1 of 2, 0 % | errors 5/55 against 0/1045 E ")
        times = [line[:8] for line in lines if line.endswith("| minimum-time")]
        counted = [datetime.strptime(at, "%H:%M:%S") for at in times]  # noqa: DTZ007 - only compared with each other
        assert counted
        assert all((later - sooner).seconds >= 9 for sooner, later in pairwise(counted))


def test_narrow_terminals_get_broken_lines(rollout: Rollout, fleet: Fleet, admin: httpx.Client) -> None:
    """Continuation lines are indented; wide terminals and files get whole lines."""
    begun = convert(read(rollout("start", "line", "line:2", *PLAN, "--json")), api.Rollout)
    assert max(map(len, details(begun, 60).splitlines())) <= 60
    assert "line:2\n" in details(begun)
    assert len(details(begun, 60).splitlines()) > len(details(begun).splitlines())
