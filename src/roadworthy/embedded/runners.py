"""The runner processes of an application: children of its process, ordered by the agent's keeper of runners as elsewhere from the
supervisor (`agent/runners/keeper.py`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from roadworthy.supervisor.plan import ChildPlan, Restarts
from roadworthy.supervisor.process_group import LEFT_S, Callbacks, ManagedProcess, ProcessExit, ProcessGroup

_LOOK_S = 0.1


class OwnChildren:
    """Starts, restarts and stops ordered processes. Event loop only.

    Args:
        on_message: called with each report, as the supervisor sends them (`supervisor/channel.py`).
    """

    def __init__(self, on_message: Callable[[dict[str, Any]], None]) -> None:
        self._tell = on_message
        self._group = ProcessGroup((), Restarts(), Callbacks(lambda _child: None, self._started, self._exited))

    def order(self, children: Sequence[dict[str, Any]]) -> None:
        """Run exactly these children."""
        wanted = {str(child["name"]): child for child in children}
        for member in list(self._group.members):
            if wanted.pop(member.plan.name, None) is None and member.stop_by is None:
                self._group.ask_to_stop(member)
        for name, child in wanted.items():
            plan = ChildPlan(name, tuple(child["argv"]), child["document"], grace_s=child["grace_s"], needed=False)
            self._group.members.append(ManagedProcess(plan, None, planned=False, ordered=True))
        self._group.start_due()

    def kill(self, name: str, pid: int, reason: str) -> None:
        """Kill process `pid` of a child at once; the child restarts."""
        for member in self._group.members:
            if member.plan.name == name and member.process is not None and member.process.pid == pid:
                self._group.kill(member, reason)

    async def run(self) -> None:
        """Restart what exits, until cancelled."""
        self._tell({"running": []})
        while True:
            self._group.start_due()
            self._group.reap()
            self._group.kill_overdue()
            await asyncio.sleep(_LOOK_S)

    async def stop(self) -> None:
        """Stop all children, by force where that takes long."""
        self._group.stopping = True
        for member in list(self._group.members):
            self._group.ask_to_stop(member)
        until = time.monotonic() + LEFT_S
        while self._group.members and time.monotonic() < until:
            await asyncio.sleep(_LOOK_S / 10)
            self._group.reap()
        self._group.kill_all()

    def pids(self) -> set[int]:
        """The process ids of all running children."""
        return self._group.pids()

    def forget(self) -> None:
        """Close what a fork of this process inherited: the children end when their parent does, whatever its forks do."""
        for member in self._group.members:
            if member.stdin is not None:
                member.stdin.close()

    def _started(self, child: ManagedProcess, pid: int) -> None:
        self._tell({"started": child.plan.name, "pid": pid})

    def _exited(self, child: ManagedProcess, ended: ProcessExit) -> None:
        self._tell(
            {
                "died": child.plan.name,
                "pid": ended.pid,
                "status": ended.status,
                "next_start_s": ended.next_start_s,
                "reason": ended.reason,
            }
        )
