"""Rules for the system's edges: only they read the environment, or catch any exception."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

Plant = Callable[[dict[str, str]], Path]

ENVIRONMENT_ROOMS = (
    "settings.py",
    "foundation/confine/environment.py",  # selects a confined process's variables, and reads no setting
)


def environment_faults(source: Path) -> list[str]:
    """Places outside the permitted files that read or write the process environment."""
    return [
        f"{path.relative_to(source)}:{node.lineno} {name}"
        for path, node in _nodes(source)
        for name in _environment_names(node)
        if path.relative_to(source).as_posix() not in ENVIRONMENT_ROOMS
    ]


def _environment_names(node: ast.AST) -> Iterator[str]:
    forbidden = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
        if node.attr in forbidden:
            yield f"os.{node.attr}"
    elif isinstance(node, ast.ImportFrom) and node.module == "os":
        yield from (f"os.{alias.name}" for alias in node.names if alias.name in forbidden)


def connection_faults(source: Path) -> list[str]:
    """Places outside the store that import SQLAlchemy's own connection, whose statements are not bound to a project."""
    return [
        f"{path.relative_to(source)}:{node.lineno}"
        for path, node in _nodes(source)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sqlalchemy"
        if "store" not in path.relative_to(source).parts and {"Connection", "create_engine"} & {each.name for each in node.names}
    ]


def broad_faults(source: Path) -> list[str]:
    """Handlers of any exception without a reason, a comment on their own line or on the next one.

    A handler that ends in a bare `raise`, or in a raise that chains the cause, swallows nothing and needs no reason.
    """
    faults = []
    for path, node in _nodes(source):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and not _passes_on(node):
            lines = path.read_text().splitlines()
            near = lines[node.lineno - 1 : node.body[0].lineno]
            if not any(_reason(line) for line in near):
                faults.append(f"{path.relative_to(source)}:{node.lineno}")
    return faults


def _nodes(source: Path) -> Iterator[tuple[Path, ast.AST]]:
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            yield path, node


def _is_broad(handler: ast.ExceptHandler) -> bool:
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"}) for kind in types)


def _passes_on(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and (last.exc is None or last.cause is not None)


def _reason(line: str) -> bool:
    """Whether the line's comment has text in addition to a linter's directive."""
    _, mark, comment = line.partition("#")
    text = re.sub(r"noqa(: ?[A-Z0-9, ]+)?|type: ?ignore(\[[a-z-]+\])?", "", comment)
    return bool(mark) and len(re.findall(r"[A-Za-z]{2,}", text)) >= 3


def test_only_settings_read_the_environment(source: Path) -> None:
    """No other module uses os.environ or its equivalents."""
    assert environment_faults(source) == []


def test_every_broad_except_says_why(source: Path) -> None:
    """A handler of any exception either raises it again or states its reason."""
    assert broad_faults(source) == []


def test_planted_reads_of_the_environment_are_found(plant: Plant) -> None:
    """Reads are found by attribute and by import; those in settings.py are allowed."""
    text = "import os\nfrom os import getenv\nx = os.environ['A']\n"
    assert environment_faults(plant({"room/bad.py": text, "settings.py": text})) == [
        "room/bad.py:2 os.getenv",
        "room/bad.py:3 os.environ",
    ]


def test_planted_silent_handlers_are_found(plant: Plant) -> None:
    """A bare, a broad and a tupled handler are found; a directive is no reason, a sentence and a re-raise are."""
    text = """
try: x = 1
except: pass
try: x = 1
except Exception:  # noqa: BLE001
    pass
try: x = 1
except (ValueError, BaseException):
    pass
try: x = 1
except Exception:  # noqa: BLE001 - the edge: any fault becomes a reply
    pass
try: x = 1
except Exception as error:
    raise ValueError from error
"""
    assert broad_faults(plant({"bad.py": text})) == ["bad.py:3", "bad.py:5", "bad.py:8"]


def test_every_statement_goes_through_a_projects_connection(source: Path) -> None:
    """Only the store opens connections of SQLAlchemy."""
    assert connection_faults(source) == []


def test_planted_connections_are_found(plant: Plant) -> None:
    """They are found by import; those in the store are allowed."""
    text = "from sqlalchemy import Connection, select\n"
    assert connection_faults(plant({"control/bad.py": text, "store/good.py": text})) == ["control/bad.py:1"]
