"""Children that another child orders: the agent orders the runner processes here, so that its own death does not end them.

The orderer inherits one end of a socket pair as `children_fd`. Messages are JSON, one a line. From it:

- `{"children": [{"name", "argv", "document", "grace_s"}, …]}`: the WHOLE list of what is wanted. Missing ones are started,
  those no longer named are told to stop, dead ones are started again with the usual pauses. A name stands for one child: a
  document that changes under it counts from its next start on.
- `{"kill": name, "pid": …, "reason": …}`: end that life of an ordered child at once; the reason comes back with its death.
- `{"hello": true}`: answered with `{"running": [{"name", "pid"}, …]}`.
- `{"heard": number}`: it has acted on this message and all before it.

To it, for ordered children and for workers (those with "slot"): `{"started": name, "pid"}`; `{"died": name, "pid", "status",
"lived_s", "deaths", "next_start_s", "reason"}`, for a worker with the gauges that it "left"; `{"recycled": name, "slot",
"reason"}`, each with a "number". What happens while the orderer is away, and what it has not heard when it ends, is told when it
says hello again: so nothing is lost, and something may come twice. Each life of the orderer has a channel of its own, so nobody
reads half of another's message.
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
    """One line to the orderer; what `lasts` is of use to its next life too."""

    number: int
    line: bytes
    lasts: bool


class SupervisorChannel:
    """One orderer's list and channel.

    Args:
        orders: what may be ordered.
        taken: names that stand in the plans.

    Attributes:
        wanted: the list in force, by name; None before the first one.
    """

    def __init__(self, orders: Orders, taken: Collection[str]) -> None:
        self.wanted: dict[str, ChildPlan] | None = None
        self._orders = orders
        self._taken = frozenset(taken)
        self._near: socket.socket | None = None
        self._received = bytearray()
        self._sending = bytearray()
        self._messages: deque[_Message] = deque(maxlen=_MOST_WAITING)  # those that it has not heard
        self._number = self._sent = 0
        self._greeted = False

    def open(self) -> socket.socket:
        """A new channel; its far end, for the orderer that is being started."""
        self.close()
        near, far = socket.socketpair()
        near.setblocking(False)
        self._near = near
        return far

    def close(self) -> None:
        """The orderer is gone. What was ordered stays."""
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
        """To wait on for orders."""
        return [] if self._near is None else [self._near]

    @property
    def writes(self) -> list[socket.socket]:
        """To wait on for room."""
        return [self._near] if self._near is not None and self._sending else []

    def receive(self) -> list[dict[str, Any]]:
        """What the orderer said; never waits."""
        self._flush()
        while self._near is not None:
            try:
                block = self._near.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                block = b""
            self._received += block
            unfinished = len(self._received) - self._received.rfind(b"\n") - 1  # whole lines may be many
            if not block or unfinished > _LONGEST_MESSAGE:
                self.close()
        *lines, rest = bytes(self._received).split(b"\n")
        self._received[:] = rest
        return [message for line in lines if (message := _parsed(line)) is not None]

    def take_list(self, message: Mapping[str, Any]) -> None:
        """Take a whole list; one with anything wrong in it is refused whole, and the one before stays in force."""
        try:
            plans = [self._plan(entry) for entry in message["children"]]
            if len(plans) > self._orders.most:
                raise ValueError(f"more than {self._orders.most} children")
            if len({plan.name for plan in plans}) != len(plans):
                raise ValueError("a name stands twice")
        except (KeyError, TypeError, ValueError) as error:
            say(f"an order for children was refused: {error}")
            return
        self.wanted = {plan.name: plan for plan in plans}

    def _plan(self, entry: Mapping[str, Any]) -> ChildPlan:
        name, argv, document, grace_s = entry["name"], tuple(entry["argv"]), entry["document"], entry["grace_s"]
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in self._taken:
            raise ValueError("a name that cannot be")
        if argv not in self._orders.commands:
            raise ValueError(f"a command of {name} that may not be ordered")
        if not isinstance(document, dict) or "slot" in document or not 0 <= float(grace_s) <= 3_600:
            raise ValueError(f"a document or grace of {name} that cannot be")
        return ChildPlan(name, argv, document, stage=self._orders.stage, grace_s=float(grace_s))

    def greet(self, children: Collection[ManagedProcess]) -> None:
        """Answer a hello: first what happened meanwhile, then who runs."""
        self._greeted = True
        self._flush()
        running = [
            {"name": child.plan.name, "pid": child.process.pid}
            for child in children
            if child.ordered and child.process is not None and child.stop_by is None
        ]
        self._tell({"running": running}, lasts=False)

    def heard(self, number: int) -> None:
        """The orderer need not be told these again."""
        while self._messages and self._messages[0].number <= number:
            self._messages.popleft()

    def started(self, child: ManagedProcess, pid: int) -> None:
        """Tell of a start."""
        if child.ordered:
            self._tell({"started": child.plan.name, "pid": pid})

    def died(self, child: ManagedProcess, death: ProcessExit, left: Mapping[str, int]) -> None:
        """Tell of a death, and for a worker which gauges it left in its slot: what it had under way."""
        if not child.ordered and child.slot is None:
            return
        event: dict[str, Any] = {
            "died": child.plan.name,
            "pid": death.pid,
            "status": death.status,
            "lived_s": round(death.lived_s, 3),
            "deaths": death.deaths,
            "next_start_s": death.next_start_s,
            "reason": death.reason,
        }
        self._tell(event if child.slot is None else {**event, "slot": child.slot, "left": dict(left)})

    def recycled(self, child: ManagedProcess, reason: str) -> None:
        """Tell that a worker was replaced warm."""
        self._tell({"recycled": child.plan.name, "slot": child.slot, "reason": reason})

    def _tell(self, event: Mapping[str, Any], *, lasts: bool = True) -> None:
        self._number += 1
        line = json.dumps({**event, "number": self._number}).encode("utf-8") + b"\n"
        if len(self._messages) == _MOST_WAITING:
            say("the agent takes no messages; the oldest was dropped")
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
        say("an order that cannot be read was left out")
        return None
    return message
