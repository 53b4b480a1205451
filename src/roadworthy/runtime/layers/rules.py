"""Rules: functions in a package that answer when its model cannot. Each worker has one `Rules`.

A rule executes in its own runner process, wherever its version executes: it can answer when the model's process cannot, and none
of its code runs here. The agent keeps these processes (`agent/runners/keeper.py`); the workers of a machine share them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from roadworthy.contract.local import part_of
from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.errors import RoadworthyError, Unavailable
from roadworthy.runtime.pending import Submitter
from roadworthy.runtime.runners.isolated.client import ProcessBatcher
from roadworthy.runtime.runners.isolated.launch import runner_address

_LOOK_AGAIN_S = 1.0


class Rules:
    """The rules that a worker's endpoints use. Event loop only.

    Args:
        folder: the gateway's; runners have their sockets below it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rules: dict[str, ProcessBatcher] = {}
        self._leaving: list[ProcessBatcher] = []
        self._kept_out: Mapping[str, str] = {}

    def get(self, entry: PackageEntry, name: str) -> Submitter | None:
        """The submitter that runs the rule. Requests that come before its process is ready wait for it, up to their deadlines.
        None for a package that may not execute code."""
        if entry.leave is None:
            return None
        part = part_of(entry.digest, name)
        rule = self._rules.get(part)
        if rule is None:
            address = runner_address(self._folder, entry.digest, rule=name)
            rule = ProcessBatcher(entry.digest, [address], asyncio.get_running_loop(), lambda: None)
            rule.bar(_barred(self._kept_out.get(part)))
            rule.connect()
            self._rules[part] = rule
        return rule

    def keep(self, used: Collection[str]) -> None:
        """Close all rules but these parts, each once no request waits for it."""
        self._leaving += [self._rules.pop(part) for part in [part for part in self._rules if part not in used]]
        self._close_idle()

    def keep_out(self, reasons: Mapping[str, str]) -> None:
        """Quarantine exactly these parts, because they crash their processes: no request waits for them. Reasons by part."""
        self._kept_out = reasons
        for part, rule in self._rules.items():
            rule.bar(_barred(reasons.get(part)))

    def try_again(self) -> None:
        """Ask runners to load rules again that failed to load."""
        for rule in self._rules.values():
            rule.try_again()

    def _close_idle(self) -> None:
        busy = [rule for rule in self._leaving if rule.waiting or rule.busy_since is not None]
        for rule in self._leaving:
            if rule not in busy:
                rule.close()
        self._leaving = busy
        if busy:
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._close_idle)


def _barred(reason: str | None) -> Callable[[], RoadworthyError] | None:
    if reason is None:
        return None
    return partial(Unavailable, f"this rule is quarantined: {reason}", code="version-quarantined")
