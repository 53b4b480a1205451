"""Rules: functions in a package that answer where its model cannot. `gateway/serving.py` keeps one `Rules` for a worker.

A rule runs on a thread of its own, never on the event loop, and only where the package's digest was allowed to execute code.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.errors import ModelFault, RoadworthyError
from roadworthy.runtime.batching import Batcher
from roadworthy.runtime.loading import open_held
from roadworthy.runtime.runners.inline import InlineRunner
from roadworthy.runtime.runners.runner import Described
from roadworthy.runtime.ticket import Submitter
from roadworthy.schema.batch import Batch

RuleLoader = Callable[[PackageEntry, str], Callable[[Batch], Batch] | None]
"""Reads a rule from a package: its function over batches, or None when the package has no rule of that name. Called in a thread;
may raise anything."""
_LOOK_AGAIN_S = 1.0
_Name = tuple[str, str]


def rule_loader(folder: Path) -> RuleLoader:
    """Rules of the packages below the gateway's `folder`."""

    def load(entry: PackageEntry, name: str) -> Callable[[Batch], Batch] | None:
        # Imported in the loading thread: a worker accepts before it has read what only loading needs.
        from roadworthy.package.rules import load_rule

        if entry.allowed_by is None:
            return None
        return load_rule(open_held(folder, entry.digest), name, allow_code=(entry.digest,))

    return load


class Rules:
    """The rules that a worker's endpoints use. Event loop only."""

    def __init__(self, load: RuleLoader) -> None:
        self._load = load
        self._rules: dict[_Name, _Rule] = {}
        self._leaving: list[_Rule] = []

    def get(self, entry: PackageEntry, name: str) -> Submitter | None:
        """What runs the rule; it is loaded in a thread meanwhile, and fails as a model does when that fails. None for a package
        that may not execute code."""
        if entry.allowed_by is None:
            return None
        rule = self._rules.get((entry.digest, name))
        if rule is None:
            rule = self._rules[entry.digest, name] = _Rule(entry, name, self._load)
        return rule.batcher

    def keep(self, used: Collection[_Name]) -> None:
        """Close all but these (digest, name), each when nobody waits for it any more."""
        self._leaving += [self._rules.pop(name) for name in [name for name in self._rules if name not in used]]
        self._close_idle()

    def _close_idle(self) -> None:
        busy = [rule for rule in self._leaving if not rule.is_idle]
        for rule in self._leaving:
            if rule.is_idle:
                rule.batcher.close()
        self._leaving = busy
        if busy:
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._close_idle)


class _Rule:
    """One rule with its thread."""

    def __init__(self, entry: PackageEntry, name: str, load: RuleLoader) -> None:
        self.batcher = Batcher(InlineRunner(_Executable(entry, name, load)), asyncio.get_running_loop())

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for it."""
        return not self.batcher.waiting and self.batcher.busy_since is None


class _Executable:
    """A rule as a runner takes it."""

    runtime = "rule"
    concurrent = False

    def __init__(self, entry: PackageEntry, name: str, load: RuleLoader) -> None:
        self._entry = entry
        self._name = name
        self._load = load
        self._function: Callable[[Batch], Batch] | None = None
        self._fault: ModelFault | None = None
        self._turn = threading.Lock()
        threading.Thread(target=self._prepare, name="load-rule", daemon=True).start()

    @property
    def package(self) -> Described:
        """A rule has no signature but its package's."""
        raise NotImplementedError

    def run(self, batch: Batch) -> Batch:
        """Answer all rows; the first call waits until the rule is loaded."""
        self._prepare()
        if self._function is None:
            raise self._fault or ModelFault("the rule is not there")
        return self._function(batch)

    def close(self) -> None:
        """Let go of it."""
        self._function = None

    def _prepare(self) -> None:
        with self._turn:
            if self._function is not None or self._fault is not None:
                return
            try:
                self._function = self._load(self._entry, self._name)
                self._fault = ModelFault("the package has no such rule")
            except Exception as error:  # noqa: BLE001 - the package's own code may raise anything
                reason = error.message if isinstance(error, RoadworthyError) else "it could not be loaded"
                self._fault = ModelFault(f"the rule cannot run: {reason}")
