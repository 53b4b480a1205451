"""Marks the tests that start processes, so that `make check` can leave them out: those are most of the time that all tests take.

Nothing is listed by hand. A test starts processes when its file, a fixture that it uses, or a helper that its file imports from
the tests stands in a module that knows `subprocess`. Those of the architecture, which ask git and the linter, are quick.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

MARK = "processes"


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", f"{MARK}: starts processes; put on by tests/tiers.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put it on, before `-m` chooses."""
    for item in items:
        if isinstance(item, pytest.Function) and item.path.parent.name != "architecture" and starts_processes(item):
            item.add_marker(MARK)


def starts_processes(item: pytest.Function) -> bool:
    """Whether what the test is made of can."""
    modules = {item.module, *_helpers(item.module)}
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        modules |= {sys.modules[definition.func.__module__] for definition in definitions}
    return any(knows_processes(module) for module in modules)


def _helpers(module: ModuleType) -> Iterator[ModuleType]:
    """The modules of the tests from which this one has imported something."""
    for value in vars(module).values():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name.startswith(("tests.", "bench.")) and name in sys.modules:
            yield sys.modules[name]


def knows_processes(module: ModuleType) -> bool:
    """Whether it has imported `subprocess`, whole or in part."""
    known = vars(module).values()
    return any(value is subprocess or getattr(value, "__module__", None) == "subprocess" for value in known)
