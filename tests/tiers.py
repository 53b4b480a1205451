"""Marks the tests that `make check` omits, which take most of the time of all tests: those that start processes, and those in the
folders with the longest ones.

No list is kept by hand. A test starts processes if its file, or the file of one of its fixtures, imports `subprocess` or the
packing of models (which replays them in a separate process), directly or through modules of tests and benchmarks. The
architecture tests, which call git and the linter, are quick.
"""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType

import pytest

MARK = "processes"
LONG_MARK = "long"
STARTERS = frozenset({"subprocess", "roadworthy", "roadworthy.package.packing.pack"})
"""Modules that start processes: Python's own, and `pack`, also by its public name."""
LONG = frozenset({"walks", "bench", "faults"})
"""Folders with the slowest files."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    config.addinivalue_line("markers", f"{MARK}: starts processes; put on by tests/tiers.py")
    config.addinivalue_line("markers", f"{LONG_MARK}: in a folder with the slowest files; put on by tests/tiers.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the marks before `-m` selects, and start slow tests first, so that two workers finish together."""
    for item in items:
        if isinstance(item, pytest.Function) and item.path.parent.name != "architecture" and starts_processes(item):
            item.add_marker(MARK)
        if item.path.parent.name in LONG:
            item.add_marker(LONG_MARK)
    slow = {item.path for item in items if item.get_closest_marker(MARK) or item.get_closest_marker(LONG_MARK)}
    items.sort(key=lambda item: (item.path not in slow, item.path.parent.name not in LONG))


def starts_processes(item: pytest.Function) -> bool:
    """Whether the test's file or fixtures start processes."""
    modules = {item.module.__name__}
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        modules |= {definition.func.__module__ for definition in definitions}
    return any(map(knows_processes, modules))


@cache
def knows_processes(name: str) -> bool:
    """Whether a module, or a module of tests and benchmarks that it imports from, imports a starter of processes."""
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
