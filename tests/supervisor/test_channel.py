"""Children that another child orders: started, kept, killed and stopped by its whole list, independent of its own life."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from roadworthy.runtime.runners.isolated.launch import runner_stem
from roadworthy.supervisor import channel as ordering_module
from roadworthy.supervisor.plan import Orders
from tests.supervisor.running import CHILD, HERE, Running, is_running, running
from tests.waiting import DEADLINE_S, eventually

__all__ = ["running"]

ORDERER = (sys.executable, str(HERE / "orderer.py"))


class Orderer:
    """A supervisor with an orderer, and the orders that the test gives through it."""

    def __init__(self, running: Running, *plans: Any) -> None:
        self.running = running
        folder = running.folder
        plan = running.plan("agent", stage=2, folder=str(folder)) | {
            "argv": ORDERER,
            "orders": {"commands": [CHILD], "stage": 1},
        }
        self._orders, self._heard = folder / "orders", folder / "heard"
        running.start(*plans, plan)
        eventually(lambda: self.heard("running"), "the orderer was greeted")

    def send(self, message: dict[str, Any]) -> None:
        """Have the orderer send a message."""
        with self._orders.open("a") as orders:
            orders.write(json.dumps(message) + "\n")

    def want(self, *names: str, **more: Any) -> None:
        """Order exactly these children, all with the same document but for the name."""
        self.send({"children": [self.child(name, **more) for name in names]})

    def child(self, name: str, argv: tuple[str, ...] = CHILD, **more: Any) -> dict[str, Any]:
        """One ordered child."""
        document = {"log": str(self.running.log), "name": name, **more}
        return {"name": name, "argv": argv, "document": document, "grace_s": DEADLINE_S}

    def heard(self, kind: str) -> list[dict[str, Any]]:
        """The messages of one kind that the ordering child got."""
        text = self._heard.read_text() if self._heard.exists() else ""
        return [message for line in text.splitlines() if kind in (message := json.loads(line))]

    def pids(self, name: str) -> list[int]:
        """The processes that were started under that name."""
        return [pid for _, pid, _ in self.running.events("ready", name)]


def test_the_whole_list_is_brought_about(running: Running) -> None:
    """Missing children start, those no longer listed stop in order, the others stay; all is reported."""
    channel = Orderer(running)
    channel.want("a", "b")
    eventually(lambda: channel.pids("a") and channel.pids("b"), "both run")
    channel.want("b", "c")
    eventually(lambda: channel.pids("c") and running.events("stop", "a"), "c came and a went")
    told = {(event["started"], event["pid"]) for event in eventually(lambda: channel.heard("started"), "told")}
    assert {("a", channel.pids("a")[0]), ("b", channel.pids("b")[0])} <= told
    (ended,) = eventually(lambda: channel.heard("died"), "the stop is reported")
    assert (ended["died"], ended["status"], ended["next_start_s"]) == ("a", 0, None)
    assert len(running.events("start", "b")) == 1
    assert running.end(signal.SIGTERM) == 0


def test_ordered_children_stop_after_the_workers_and_before_their_orderer(running: Running) -> None:
    """Workers still need them; the ordering child sees their exits."""
    channel = Orderer(running, running.plan("w", slot=0), running.plan("control", stage=3))
    channel.want("a")
    eventually(lambda: channel.pids("a"), "a runs")
    running.wait_ready(4)
    assert running.end(signal.SIGTERM) == 0
    assert [name for name, _, _ in running.events("stop")] == ["w", "a", "agent", "control"]


def test_an_ordered_child_that_dies_is_told_and_started_again(running: Running) -> None:
    """Its exit status is reported, and it restarts with backoff while it keeps exiting."""
    channel = Orderer(running)
    channel.want("bad", fail=3)
    exits = eventually(lambda: len(found := channel.heard("died")) >= 4 and found, "four deaths")
    assert [ended["status"] for ended in exits[:4]] == [3] * 4
    assert [ended["deaths"] for ended in exits[:4]] == [1, 2, 3, 4]
    assert all(ended["next_start_s"] <= pause for ended, pause in zip(exits, (0.0, 0.1, 0.2, 0.4), strict=False))
    eventually(lambda: all(f"again in {pause} s" in running.said() for pause in (0.0, 0.1, 0.2, 0.4)), "delays are logged")
    channel.want()
    channel.want("good")
    eventually(lambda: channel.pids("good"), "another one runs")
    assert running.end(signal.SIGTERM) == 0


def test_the_orderer_has_a_life_killed(running: Running) -> None:
    """Only the named process is killed; its exit is reported with the reason, and the child restarts."""
    channel = Orderer(running)
    channel.want("a")
    (pid,) = eventually(lambda: channel.pids("a"), "a runs")
    channel.send({"kill": "a", "pid": pid + 1, "reason": "another life"})
    channel.send({"kill": "a", "pid": pid, "reason": "hung"})
    eventually(lambda: len(channel.pids("a")) == 2, "it is started again")
    (ended,) = channel.heard("died")
    assert (ended["pid"], ended["status"], ended["reason"]) == (pid, -signal.SIGKILL, "hung")
    assert running.end(signal.SIGTERM) == 0


def test_d2_ordered_children_outlive_their_orderer(running: Running) -> None:
    """After kill -9 of the ordering child its children stay; its next process hears of exits and of running children."""
    channel = Orderer(running)
    channel.want("a", "b")
    (first,), (second,) = eventually(lambda: (a := channel.pids("a")) and (b := channel.pids("b")) and (a, b), "both run")
    (running.folder / "orders").unlink()  # its next life orders nothing
    os.kill(channel.pids("agent")[0], signal.SIGKILL)
    os.kill(second, signal.SIGKILL)
    eventually(lambda: len(channel.pids("b")) == 2, "b is started again")
    eventually(lambda: len(channel.pids("agent")) == 2, "the orderer is back")
    eventually(lambda: channel.heard("died"), "it hears of the death")
    running_now = {(child["name"], child["pid"]) for child in channel.heard("running")[-1]["running"]}
    assert ("a", first) in running_now
    assert is_running(first)
    assert running.end(signal.SIGTERM) == 0


def test_d2_what_a_killed_orderer_had_not_read_is_told_to_its_next_life(running: Running) -> None:
    """An unread report of an exit is not lost; confirmed messages are not sent again."""
    channel = Orderer(running)
    channel.want("a", "b")
    (first,), (second,) = eventually(lambda: (a := channel.pids("a")) and (b := channel.pids("b")) and (a, b), "both run")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: channel.heard("died"), "it hears of the first death")
    (orderer,) = channel.pids("agent")
    os.kill(orderer, signal.SIGSTOP)
    os.kill(second, signal.SIGKILL)
    eventually(lambda: len(channel.pids("b")) == 2, "the supervisor has noticed the second death")
    os.kill(orderer, signal.SIGKILL)
    eventually(lambda: len(channel.heard("died")) == 2, "its next life hears of it")
    assert [ended["pid"] for ended in channel.heard("died")] == [first, second]
    assert running.end(signal.SIGTERM) == 0


def test_d2_kill_9_of_the_supervisor_ends_ordered_children(running: Running) -> None:
    """They notice that their parent is gone, like all others."""
    channel = Orderer(running)
    channel.want("a")
    (pid,) = eventually(lambda: channel.pids("a"), "a runs")
    running.signal(signal.SIGKILL)
    eventually(lambda: not is_running(pid), "it is gone")
    assert running.process is not None
    running.process.wait()


def test_the_longest_name_of_a_runner_may_be_ordered(running: Running) -> None:
    """That of a rule with the longest name that a package allows, with every allowed character."""
    channel = Orderer(running)
    rule = "a_rule.v-2".ljust(64, "x")
    name = f"runner-{runner_stem('f' * 64, rule)}-255-{'f' * 8}.{1 << 40}"
    channel.want(name)
    assert eventually(lambda: channel.pids(name), "it runs")
    assert running.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"argv": (sys.executable, "-c", "print(1)")},
        {"argv": (*CHILD, "more")},
        {"name": "agent"},
        {"name": "../a"},
        {"grace_s": -1},
        {"document": {"slot": 0}},
        {"document": []},
    ],
    ids=str,
)
def test_nothing_but_the_allowed_command_is_started(running: Running, wrong: dict[str, Any]) -> None:
    """A list with any fault is refused whole; the previous list stays in force, and the supervisor runs on."""
    channel = Orderer(running)
    channel.want("a")
    (pid,) = eventually(lambda: channel.pids("a"), "a runs")
    channel.send({"children": [channel.child("b"), channel.child("c") | wrong]})
    channel.send({"hello": True})
    eventually(lambda: len(channel.heard("running")) == 2, "the order was read")
    assert [child["name"] for child in channel.heard("running")[-1]["running"]] == ["a"]
    assert is_running(pid)
    assert not running.events("start", "b")
    assert running.end(signal.SIGTERM) == 0


def test_an_order_that_cannot_be_read_does_no_harm(running: Running) -> None:
    """Neither invalid JSON nor JSON of another shape."""
    channel = Orderer(running)
    with Path(running.folder, "orders").open("a") as orders:
        orders.write('{"children"\n[1, 2]\n{"children": 7}\n{"children": [7]}\n{"kill": "agent", "pid": 1}\n')
    channel.want("a")
    eventually(lambda: channel.pids("a"), "a runs")
    assert running.end(signal.SIGTERM) == 0


def test_g21_many_orders_at_once_do_not_end_the_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause the supervisor finds more bytes than one message may have: only a single line is limited."""
    monkeypatch.setattr(ordering_module, "_LONGEST_MESSAGE", 1_000)
    channel = ordering_module.SupervisorChannel(Orders((CHILD,), 1), [])
    orderer = channel.open()
    with orderer:
        for number in range(20):
            orderer.sendall(json.dumps({"heard": number, "pad": "x" * 500}).encode() + b"\n")
        assert [message["heard"] for message in channel.receive()] == list(range(20))
        orderer.sendall(b'{"heard": 20}\n')
        assert channel.receive() == [{"heard": 20}]
        orderer.sendall(b"x" * 1_001)
        channel.receive()
        assert channel.reads == []
