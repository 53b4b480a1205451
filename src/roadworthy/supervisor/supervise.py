"""Starts the children that the command line planned, keeps them running and stops them in order.

It owns the listening sockets (the command line binds them and names them in the plans), the slab and the children, nothing else.
It knows the data plane and the control plane by their commands only. Each child gets its start document as one line on standard
input, and that pipe stays open as long as the supervisor lives (`foundation/child.py`).

- SIGTERM or SIGINT: stop stage by stage, lowest stage first, each child within its grace. A second signal: stop by force. Clients
  that connect during the stop are answered or refused (`listener.py`).
- SIGHUP: recycle the workers one at a time; the old worker stops once its replacement is READY in a spare slot of the slab.
- A child that exits is restarted: at once when it had run well, then with backoff.
- A child that exits with EXIT_REFUSED on its first start stops everything: there is no half start. A child that is not needed is
  tried again.
- A child without a sign of life is killed and restarted; a worker that holds too much memory is recycled.
- One child may order others (`channel.py`); they keep running when it exits.
- The descendants of a child end with it (`leftovers.py`).
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
from roadworthy.supervisor.kept import Kept
from roadworthy.supervisor.leftovers import Leftovers
from roadworthy.supervisor.listener import SharedListener
from roadworthy.supervisor.plan import ChildPlan, Restarts, WorkerLimits
from roadworthy.supervisor.process_group import LOOK_S, Callbacks, ManagedProcess, ProcessExit, ProcessGroup, say
from roadworthy.supervisor.recycling import Recycler
from roadworthy.supervisor.watch import WorkerWatch

_STEP_S = 0.05
"""How often the loop looks at states while a stop or a replacement is under way."""


@dataclass(slots=True)
class _Asked:
    stops: int = 0
    recycle: bool = False
    pipe: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)


class Supervisor:
    """Runs the plans until asked to stop.

    Args:
        plans: the children, in the order in which they start.
        slab, limits: where to create the workers' slab (the slots that the plans name, a spare one, those of
            embedded endpoints, and the agent's), and
            the limits of workers. None when no plan is a worker.
        restarts: when exited children restart.
        listeners: the listening sockets that a stop closes in order.
    """

    def __init__(
        self,
        plans: Sequence[ChildPlan],
        *,
        slab: Path | None = None,
        restarts: Restarts | None = None,
        limits: WorkerLimits | None = None,
        listeners: Sequence[SharedListener] = (),
    ) -> None:
        restarts = restarts or Restarts()
        self._asked = _Asked()
        self._listeners = listeners
        self._next_look = 0.0
        self._channel: SupervisorChannel | None = None
        for plan in plans:
            if plan.orders is not None:
                self._channel = SupervisorChannel(plan.orders, [other.name for other in plans])
        self._leftovers = Leftovers()
        self._group = ProcessGroup(plans, restarts, Callbacks(self._open_channel, self._started, self._exited))
        self._watch: WorkerWatch | None = None
        self._recycler: Recycler | None = None
        self._slab: Kept | None = None
        slots = [plan.slot for plan in plans if plan.slot is not None]
        if slab is not None and limits is not None:
            spare = max(slots, default=-1) + 1
            create_slab(slab, spare + 2 + limits.members, members=limits.members)
            self._slab = Kept(slab)
            watch = self._watch = WorkerWatch(SlabReader(slab), limits)
            self._recycler = Recycler(self._group, watch.is_ready, spare, restarts.ready_s, self._recycled)

    def run(self) -> int:
        """Start all children and return once all have stopped. Call in the main thread.

        Returns:
            0 after an orderly stop, 1 when a child had to be killed, EXIT_REFUSED when a child refused to start.
        """
        group = self._group
        self._leftovers.begin()
        with self._signals():
            try:
                while not self._is_over():
                    self._end_leftovers()
                    self._take_orders()
                    group.start_due()
                    self._look_at_workers()
                    self._look_for_life()
                    self._recycle()
                    group.kill_overdue()
                    self._sleep()
                self._stop_all()
            finally:
                group.kill_all()
                self._leftovers.finish()
                if self._channel is not None:
                    self._channel.close()
                if self._slab is not None:
                    self._slab.close()
        if group.forced:
            say("stopped by force: some children could not finish")
        return EXIT_REFUSED if group.refused else int(group.forced)

    def stop(self) -> None:
        """Ask for an orderly stop, from any thread or from a signal handler; a second call stops by force."""
        self._asked.stops += 1
        with contextlib.suppress(OSError):
            self._asked.pipe[1].send(b"s")

    def refused(self) -> set[str]:
        """The names of children whose last process refused to start. From any thread."""
        return {child.plan.name for child in list(self._group.members) if child.refused}

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        terminal = os.isatty(0)  # when this terminal closes, SIGHUP means stop
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
        self._group.reap()
        return self._asked.stops > 0 or self._group.refused

    # Ordered children.

    def _open_channel(self, child: ManagedProcess) -> socket.socket | None:
        return self._channel.open() if self._channel is not None and child.plan.orders is not None else None

    def _started(self, child: ManagedProcess, pid: int) -> None:
        if self._channel is not None:
            self._channel.started(child, pid)

    def _exited(self, child: ManagedProcess, ended: ProcessExit) -> None:
        self._leftovers.child_exited()
        if self._channel is None:
            return
        if child.plan.orders is not None:
            self._channel.close()
        else:
            self._channel.exited(child, ended, {} if self._watch is None else self._watch.left(child.slot))

    def _recycled(self, child: ManagedProcess, reason: str) -> None:
        if self._channel is not None:
            self._channel.recycled(child, reason)

    def _take_orders(self) -> None:
        channel = self._channel
        if channel is None:
            return
        for message in channel.receive():
            if self._group.stopping:
                continue
            if "hello" in message:
                channel.greet(self._group.members)
            elif isinstance(number := message.get("heard"), int):
                channel.heard(number)
            elif "children" in message:
                channel.take_list(message)
            elif "kill" in message:
                self._kill_ordered(message)
        if channel.wanted is not None and not self._group.stopping:
            self._bring_about(channel.wanted)

    def _bring_about(self, wanted: dict[str, ChildPlan]) -> None:
        members = self._group.members
        ordered = {child.plan.name: child for child in members if child.ordered}
        for name, child in ordered.items():
            if name in wanted:
                child.plan = wanted[name]
            elif child.stop_by is None:
                self._group.ask_to_stop(child)
        for name, plan in wanted.items():
            if name not in ordered:
                members.append(ManagedProcess(plan, None, planned=False, ordered=True))

    def _kill_ordered(self, message: dict[str, Any]) -> None:
        for child in self._group.members:
            life = None if child.process is None else child.process.pid
            if child.ordered and child.plan.name == message["kill"] and life is not None and life == message.get("pid"):
                self._group.kill(child, str(message.get("reason") or "killed")[:100])

    def _end_leftovers(self) -> None:
        if self._leftovers.busy:
            self._leftovers.look(self._group.pids())
        else:
            self._leftovers.reap(self._group.pids())

    def _look_for_life(self) -> None:
        if self._group.judges and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_S
            for child in list(self._group.still()):
                self._group.kill(child, "no sign of life")

    # Workers.

    def _look_at_workers(self) -> None:
        if self._watch is None or self._recycler is None or self._slab is None:
            return
        self._slab.stay()
        hung, bloated = self._watch.look(self._group.workers())
        for child in hung:
            self._group.kill(child, "hung")
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
            self._recycler.ask(self._group.workers(), "asked")
        self._recycler.go_on()

    # Stopping and sleeping.

    def _stop_all(self) -> None:
        group = self._group
        group.stopping = True
        for listener in self._listeners:
            listener.begin()
        for stage in sorted({child.plan.stage for child in group.members}):
            members = [child for child in group.members if child.plan.stage == stage]
            for child in members:
                group.ask_to_stop(child)
            while any(child in group.members for child in members) and self._asked.stops < 2:
                self._sleep()
                self._take_orders()
                group.reap()
                group.kill_overdue()
                self._end_leftovers()
                for listener in self._listeners:
                    listener.look()
        for listener in self._listeners:
            listener.finish()

    def _sleep(self) -> None:
        """Sleep until a signal, an order, or the next due start or look; for one step at most while something is under way."""
        waits = list(self._group.waits())
        if self._group.judges and not self._group.stopping:
            waits.append(self._next_look - time.monotonic())
        if self._watch is not None and not self._group.stopping:
            waits.append(self._watch.wait_s)
        recycling = self._recycler is not None and self._recycler.under_way
        if recycling or self._leftovers.busy or self._asked.recycle or self._group.any_stopping():
            waits.append(_STEP_S)
        inbox = self._asked.pipe[0]
        channel = self._channel
        reads = [inbox, *(channel.reads if channel is not None else ())]
        writes = channel.writes if channel is not None else []
        select.select(reads, writes, [], max(0.0, min(waits)) if waits else None)
        with contextlib.suppress(BlockingIOError):
            inbox.recv(4096)
