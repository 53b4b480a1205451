"""Starts the children that the command line planned, keeps them running, stops them in order.

It owns the listening sockets (the command line binds them and names them in the plans), the slab and the children, nothing
else; it knows both planes by command only. Each child gets its start document as one line on standard input, and the pipe stays
open as long as this process lives (`foundation/child.py`).

- SIGTERM or SIGINT: stop, stage by stage, lowest stage first; each has its grace. A second one: stop by force. Who connects
  meanwhile is answered or refused (`door.py`).
- SIGHUP: recycle the workers, one at a time; a replacement is READY in a spare slot of the slab before the old one is stopped.
- A child that dies is started again: at once when it had run well, then with growing pauses.
- A child that exits with EXIT_REFUSED on its first start stops everything: there is no half start. One that is not needed is
  tried again.
- A child that gives no sign of life is killed and started again; a worker that holds too much memory is recycled.
- One child may order others (`channel.py`); they stay when it dies.
- What descends from a child ends with it (`leftovers.py`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from roadworthy.foundation.child import EXIT_REFUSED
from roadworthy.foundation.slab import SlabReader, create_slab
from roadworthy.supervisor.channel import SupervisorChannel
from roadworthy.supervisor.door import Door
from roadworthy.supervisor.kept import Kept
from roadworthy.supervisor.leftovers import Leftovers
from roadworthy.supervisor.plan import ChildPlan, Restarts, WorkerLimits
from roadworthy.supervisor.process_group import LOOK_S, Listeners, ManagedProcess, ProcessExit, ProcessGroup, say
from roadworthy.supervisor.recycling import Recycler
from roadworthy.supervisor.watch import WorkerWatch

_STEP_S = 0.05
"""How often states are looked at while something is under way."""


@dataclass(slots=True)
class _Asked:
    stops: int = 0
    recycle: bool = False
    pipe: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)


class Supervisor:
    """Runs the plans until it is told to stop.

    Args:
        plans: in the order in which they are started.
        slab: where the workers' slab is made, with the slots that the plans name, then a spare one, then the agent's. None when
            no plan is a worker.
        restarts: delays between restarts.
        limits: of workers.
        doors: the listening sockets, to be closed in order at a stop.
    """

    def __init__(
        self,
        plans: Sequence[ChildPlan],
        *,
        slab: Path | None = None,
        restarts: Restarts | None = None,
        limits: WorkerLimits | None = None,
        doors: Sequence[Door] = (),
    ) -> None:
        restarts = restarts or Restarts()
        self._asked = _Asked()
        self._doors = doors
        self._next_look = 0.0
        self._ordering: SupervisorChannel | None = None
        for plan in plans:
            if plan.orders is not None:
                self._ordering = SupervisorChannel(plan.orders, [other.name for other in plans])
        self._leftovers = Leftovers()
        self._house = ProcessGroup(plans, restarts, Listeners(self._channel, self._started, self._died))
        self._watch: WorkerWatch | None = None
        self._recycler: Recycler | None = None
        self._slab: Kept | None = None
        slots = [plan.slot for plan in plans if plan.slot is not None]
        if slab is not None:
            spare = max(slots, default=-1) + 1
            create_slab(slab, spare + 2)
            self._slab = Kept(slab)
            watch = self._watch = WorkerWatch(SlabReader(slab), limits or WorkerLimits())
            self._recycler = Recycler(self._house, watch.is_ready, spare, restarts.ready_s, self._recycled)

    def run(self) -> int:
        """Start everything and stay until it has stopped. Call in the main thread.

        Returns:
            0 after an orderly stop, 1 when a child had to be killed, EXIT_REFUSED when a child refused to start.
        """
        house = self._house
        self._leftovers.begin()
        with self._signals():
            try:
                while not self._is_over():
                    self._end_leftovers()
                    self._take_orders()
                    house.start_due()
                    self._look_at_workers()
                    self._look_for_life()
                    self._recycle()
                    house.kill_overdue()
                    self._sleep()
                self._stop_all()
            finally:
                house.kill_all()
                self._leftovers.finish()
                if self._ordering is not None:
                    self._ordering.close()
                if self._slab is not None:
                    self._slab.close()
        if house.forced:
            say("stopped by force: not everything could finish")
        return EXIT_REFUSED if house.refused else int(house.forced)

    def stop(self) -> None:
        """Ask for an orderly stop, from any thread or from a signal handler; asked twice it is by force."""
        self._asked.stops += 1
        with contextlib.suppress(OSError):
            self._asked.pipe[1].send(b"s")

    def refused(self) -> set[str]:
        """The names of children whose last life refused to start. From any thread."""
        return {child.plan.name for child in list(self._house.members) if child.refused}

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        terminal = os.isatty(0)  # a hang-up because this terminal was closed means stop
        wake = self._asked.pipe[1]
        wake.setblocking(False)
        self._asked.pipe[0].setblocking(False)

        def handle(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP and not (terminal and not os.isatty(0)):
                self._asked.recycle = True
            elif number != signal.SIGCHLD:
                self._asked.stops += 1

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        before = [signal.signal(number, handle) for number in numbers]
        before_wake = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before_wake)
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
            for end in self._asked.pipe:
                end.close()

    def _is_over(self) -> bool:
        self._house.reap()
        return self._asked.stops > 0 or self._house.refused

    # Ordered children.

    def _channel(self, child: ManagedProcess) -> socket.socket | None:
        return self._ordering.open() if self._ordering is not None and child.plan.orders is not None else None

    def _started(self, child: ManagedProcess, pid: int) -> None:
        if self._ordering is not None:
            self._ordering.started(child, pid)

    def _died(self, child: ManagedProcess, death: ProcessExit) -> None:
        self._leftovers.someone_died()
        if self._ordering is None:
            return
        if child.plan.orders is not None:
            self._ordering.close()
        else:
            self._ordering.died(child, death, {} if self._watch is None else self._watch.left(child.slot))

    def _recycled(self, child: ManagedProcess, reason: str) -> None:
        if self._ordering is not None:
            self._ordering.recycled(child, reason)

    def _take_orders(self) -> None:
        ordering = self._ordering
        if ordering is None:
            return
        for message in ordering.receive():
            if self._house.stopping:
                continue
            if "hello" in message:
                ordering.greet(self._house.members)
            elif isinstance(number := message.get("heard"), int):
                ordering.heard(number)
            elif "children" in message:
                ordering.take_list(message)
            elif "kill" in message:
                self._kill_ordered(message)
        if ordering.wanted is not None and not self._house.stopping:
            self._bring_about(ordering.wanted)

    def _bring_about(self, wanted: dict[str, ChildPlan]) -> None:
        members = self._house.members
        ordered = {child.plan.name: child for child in members if child.ordered}
        for name, child in ordered.items():
            if name in wanted:
                child.plan = wanted[name]
            elif child.stop_by is None:
                self._house.ask_to_stop(child)
        for name, plan in wanted.items():
            if name not in ordered:
                members.append(ManagedProcess(plan, None, planned=False, ordered=True))

    def _kill_ordered(self, message: dict[str, Any]) -> None:
        for child in self._house.members:
            life = None if child.process is None else child.process.pid
            if child.ordered and child.plan.name == message["kill"] and life is not None and life == message.get("pid"):
                self._house.kill(child, str(message.get("reason") or "killed")[:100])

    def _end_leftovers(self) -> None:
        if self._leftovers.busy:
            self._leftovers.look(self._house.pids())
        else:
            self._leftovers.reap(self._house.pids())

    def _look_for_life(self) -> None:
        if self._house.judges and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_S
            for child in list(self._house.still()):
                self._house.kill(child, "no sign of life")

    # Workers.

    def _look_at_workers(self) -> None:
        if self._watch is None or self._recycler is None or self._slab is None:
            return
        self._slab.stay()
        hung, bloated = self._watch.look(self._house.workers())
        for child in hung:
            self._house.kill(child, "hung")
        for child, reason in bloated:
            if self._watch.may_recycle and not self._recycler.under_way:
                say(f"{child.plan.name} holds too much memory ({reason}); replacing it")
                self._watch.recycled()
                self._recycler.ask([child], reason)

    def _recycle(self) -> None:
        if self._recycler is None:
            self._asked.recycle = False
            return
        if self._asked.recycle:
            self._asked.recycle = False
            self._recycler.ask(self._house.workers(), "asked")
        self._recycler.go_on()

    # Stopping and sleeping.

    def _stop_all(self) -> None:
        house = self._house
        house.stopping = True
        for door in self._doors:
            door.begin()
        for stage in sorted({child.plan.stage for child in house.members}):
            members = [child for child in house.members if child.plan.stage == stage]
            for child in members:
                house.ask_to_stop(child)
            while any(child in house.members for child in members) and self._asked.stops < 2:
                self._sleep()
                self._take_orders()
                house.reap()
                house.kill_overdue()
                self._end_leftovers()
                for door in self._doors:
                    door.look()
        for door in self._doors:
            door.finish()

    def _sleep(self) -> None:
        """Until a signal, an order, the next start or look that is due, or one step when something is under way."""
        waits = list(self._house.waits())
        if self._house.judges and not self._house.stopping:
            waits.append(self._next_look - time.monotonic())
        if self._watch is not None and not self._house.stopping:
            waits.append(self._watch.wait_s)
        recycling = self._recycler is not None and self._recycler.under_way
        if recycling or self._leftovers.busy or self._asked.recycle or self._house.someone_stops():
            waits.append(_STEP_S)
        inbox = self._asked.pipe[0]
        ordering = self._ordering
        reads = [inbox, *(ordering.reads if ordering is not None else ())]
        writes = ordering.writes if ordering is not None else []
        select.select(reads, writes, [], max(0.0, min(waits)) if waits else None)
        with contextlib.suppress(BlockingIOError):
            inbox.recv(4096)
