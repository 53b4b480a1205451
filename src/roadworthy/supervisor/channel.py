"""The channel by which one child orders others: the agent orders the runner processes here, so that they outlive the agent.

The ordering child inherits one end of a socket pair as `children_fd`. Messages are JSON, one a line. It sends:

- `{"children": [{"name", "argv", "document", "grace_s"}, …]}`: the WHOLE list of wanted children. The supervisor starts missing
  ones, stops those no longer named, and restarts exited ones with the usual backoff. A name stands for one child: a document that
  changes under a name takes effect at the child's next start.
- `{"kill": name, "pid": …, "reason": …}`: end that process of an ordered child at once; the report of its exit repeats the
  reason.
- `{"hello": true}`: answered with `{"running": [{"name", "pid"}, …]}`.
- `{"heard": number}`: it has acted on the message with this number and on all earlier ones.

It receives, for ordered children and for workers (those with "slot"): `{"started": name, "pid"}`; `{"died": name, "pid",
"status", "lived_s", "deaths", "next_start_s", "reason"}`, for a worker with the gauges that it "left"; `{"recycled": name,
"slot", "reason"}`, each with a "number". Events during its absence, and events that it had not confirmed with "heard" when it
exited, are sent after its next hello: no event is lost, and some may come twice. Each process of the ordering child has its own
channel, so it never reads half of a message to its predecessor.
"""

from __future__ import annotations

import json
import re
import socket
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from roadworthy.supervisor.plan import ChildPlan, Orders
from roadworthy.supervisor.process_group import ManagedProcess, ProcessExit, say

_LONGEST_MESSAGE = 4 << 20
_MOST_WAITING = 1_000
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,149}", re.ASCII)


class _Message(NamedTuple):
    """One line to the ordering child. With `lasts`, its next process gets the message too."""

    number: int
    line: bytes
    lasts: bool


class SupervisorChannel:
    """The list of ordered children, and the channel to the child that orders them.

    Args:
        orders: what may be ordered.
        taken: names of planned children, which no ordered child may have.

    Attributes:
        wanted: the list in force, by name; None before the first list.
    """

    def __init__(self, orders: Orders, taken: Collection[str]) -> None:
        self.wanted: dict[str, ChildPlan] | None = None
        self._orders = orders
        self._taken = frozenset(taken)
        self._near: socket.socket | None = None
        self._received = bytearray()
        self._sending = bytearray()
        self._messages: deque[_Message] = deque(maxlen=_MOST_WAITING)  # those not confirmed yet
        self._number = self._sent = 0
        self._greeted = False

    def open(self) -> socket.socket:
        """Open a new channel and return its far end, for the ordering child that is about to start."""
        self.close()
        near, far = socket.socketpair()
        near.setblocking(False)
        self._near = near
        return far

    def close(self) -> None:
        """Close the channel: the ordering child is gone. Ordered children stay."""
        if self._near is not None:
            self._near.close()
        self._near = None
        self._greeted = False
        self._received.clear()
        self._sending.clear()
        self._sent = 0
        self._messages = deque((each for each in self._messages if each.lasts), _MOST_WAITING)

    @property
    def reads(self) -> list[socket.socket]:
        """Sockets to wait on for orders."""
        return [] if self._near is None else [self._near]

    @property
    def writes(self) -> list[socket.socket]:
        """Sockets to wait on until more can be sent."""
        return [self._near] if self._near is not None and self._sending else []

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have arrived; never waits."""
        self._flush()
        while self._near is not None:
            try:
                block = self._near.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                block = b""
            self._received += block
            unfinished = len(self._received) - self._received.rfind(b"\n") - 1  # whole lines have no limit
            if not block or unfinished > _LONGEST_MESSAGE:
                self.close()
        *lines, rest = bytes(self._received).split(b"\n")
        self._received[:] = rest
        return [message for line in lines if (message := _parsed(line)) is not None]

    def take_list(self, message: Mapping[str, Any]) -> None:
        """Take a whole list of wanted children. A list with any fault is refused whole, and the previous one stays in force."""
        try:
            plans = [self._plan(entry) for entry in message["children"]]
            if len(plans) > self._orders.most:
                raise ValueError(f"{len(plans)} children, at most {self._orders.most} are allowed")
            if len({plan.name for plan in plans}) != len(plans):
                raise ValueError("two children have the same name")
        except (KeyError, TypeError, ValueError) as error:
            say(f"refused an order for children: {error}")
            return
        self.wanted = {plan.name: plan for plan in plans}

    def _plan(self, entry: Mapping[str, Any]) -> ChildPlan:
        name, argv, document, grace_s = entry["name"], tuple(entry["argv"]), entry["document"], entry["grace_s"]
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in self._taken:
            raise ValueError("a child's name is invalid or taken")
        if argv not in self._orders.commands:
            raise ValueError(f"the command of {name} may not be ordered")
        if not isinstance(document, dict) or "slot" in document or not 0 <= float(grace_s) <= 3_600:
            raise ValueError(f"the document or grace of {name} is invalid")
        return ChildPlan(name, argv, document, stage=self._orders.stage, grace_s=float(grace_s))

    def greet(self, children: Collection[ManagedProcess]) -> None:
        """Answer a hello: first send the events that it missed, then the running children."""
        self._greeted = True
        self._flush()
        running = [
            {"name": child.plan.name, "pid": child.process.pid}
            for child in children
            if child.ordered and child.process is not None and child.stop_by is None
        ]
        self._report({"running": running}, lasts=False)

    def heard(self, number: int) -> None:
        """Drop messages up to `number`: the ordering child has acted on them."""
        while self._messages and self._messages[0].number <= number:
            self._messages.popleft()

    def started(self, child: ManagedProcess, pid: int) -> None:
        """Report a start."""
        if child.ordered:
            self._report({"started": child.plan.name, "pid": pid})

    def exited(self, child: ManagedProcess, ended: ProcessExit, left: Mapping[str, int]) -> None:
        """Report an exit; for a worker, with the gauges that it left in its slot: the requests it had under way."""
        if not child.ordered and child.slot is None:
            return
        event: dict[str, Any] = {
            "died": child.plan.name,
            "pid": ended.pid,
            "status": ended.status,
            "lived_s": round(ended.lived_s, 3),
            "deaths": ended.quick_exits,
            "next_start_s": ended.next_start_s,
            "reason": ended.reason,
        }
        self._report(event if child.slot is None else {**event, "slot": child.slot, "left": dict(left)})

    def recycled(self, child: ManagedProcess, reason: str) -> None:
        """Report that a worker was replaced warm."""
        self._report({"recycled": child.plan.name, "slot": child.slot, "reason": reason})

    def _report(self, event: Mapping[str, Any], *, lasts: bool = True) -> None:
        self._number += 1
        line = json.dumps({**event, "number": self._number}).encode("utf-8") + b"\n"
        if len(self._messages) == _MOST_WAITING:
            say("the agent does not confirm messages; dropped the oldest")
        self._messages.append(_Message(self._number, line, lasts))
        self._flush()

    def _flush(self) -> None:
        while self._near is not None and self._greeted:
            if not self._sending:
                following = next((each for each in self._messages if each.number > self._sent), None)
                if following is None:
                    return
                self._sending += following.line
                self._sent = following.number
            try:
                sent = self._near.send(self._sending)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            del self._sending[:sent]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        say("ignored an unreadable order: it is not a JSON object")
        return None
    return message
