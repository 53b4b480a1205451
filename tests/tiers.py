"""Marks the tests that start processes, so that `make check` can leave them out: those are most of the time that all tests take.

Nothing is listed by hand. A test starts processes when its file, or that of a fixture that it uses, has imported `subprocess` or
what packs a model, which replays it in a process of its own; itself, or by what it imports from tests and benchmarks. Those of
the architecture, which ask git and the linter, are quick.
"""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType

import pytest

MARK = "processes"
STARTERS = frozenset({"subprocess", "roadworthy", "roadworthy.package.packing.pack"})
"""Modules that start processes: Python's own, and `pack`, also by its public name."""
LONG = frozenset({"walks", "bench", "faults"})
"""Folders of the files that take longest."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", f"{MARK}: starts processes; put on by tests/tiers.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put it on, before `-m` chooses; and have what takes long begin first, so that two workers end together."""
    for item in items:
        if isinstance(item, pytest.Function) and item.path.parent.name != "architecture" and starts_processes(item):
            item.add_marker(MARK)
    starting = {item.path for item in items if item.get_closest_marker(MARK)}
    items.sort(key=lambda item: (item.path not in starting, item.path.parent.name not in LONG))


def starts_processes(item: pytest.Function) -> bool:
    """Whether what the test is made of can."""
    modules = {item.module.__name__}
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        modules |= {definition.func.__module__ for definition in definitions}
    return any(map(knows_processes, modules))


@cache
def knows_processes(name: str) -> bool:
    """Whether a module, or one of the tests and benchmarks from which it has imported something, has imported a starter."""
    seen, left = {name}, [name]
    while left:
        module = sys.modules.get(left.pop())
        for value in vars(module).values() if module is not None else ():
            source = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if source in STARTERS:
                return True
            if isinstance(source, str) and source.startswith(("tests.", "bench.")) and source not in seen:
                seen.add(source)
                left.append(source)
    return False
