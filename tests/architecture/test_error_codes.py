"""docs/errors.md explains every error code that can reach a caller, and no code that does not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

Plant = Callable[[dict[str, str]], Path]

_CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def codes_in(source: Path) -> set[str]:
    """Codes in the forms `code="…"` in a call, `code = "…"` in a class body, or a conditional of such texts."""
    found: set[str] = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg == "code":
                        found |= _texts(keyword.value)
            elif isinstance(node, ast.ClassDef):
                for statement in node.body:
                    if isinstance(statement, ast.Assign | ast.AnnAssign) and _assigns_code(statement):
                        found |= _texts(statement.value)
    return {code for code in found if _CODE.fullmatch(code)} - {"ok"}


def _assigns_code(statement: ast.Assign | ast.AnnAssign) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return any(isinstance(target, ast.Name) and target.id == "code" for target in targets)


def _texts(value: ast.expr | None) -> set[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return {value.value}
    if isinstance(value, ast.IfExp):
        return _texts(value.body) | _texts(value.orelse)
    return set()


def explained_in(page: str) -> list[str]:
    """The page's headings of the second level, in order."""
    return re.findall(r"^## (\S+)$", page, flags=re.MULTILINE)


def test_every_code_is_explained_and_every_explanation_has_its_code(source: Path, root: Path) -> None:
    """The codes of the sources and the headings of docs/errors.md are the same set."""
    explained = set(explained_in((root / "docs" / "errors.md").read_text()))
    codes = codes_in(source)
    mentioned = {code for code in explained - codes if _is_written(code, source)}  # carried by a table or a parameter
    assert sorted(codes - explained) == [], "these have no heading in docs/errors.md"
    assert sorted(explained - codes - mentioned) == [], "these headings have no code"


def _is_written(code: str, source: Path) -> bool:
    return any(f'"{code}"' in path.read_text() for path in source.rglob("*.py"))


def test_explanations_are_unique_sorted_and_not_empty(root: Path) -> None:
    """Each code is explained once, in alphabetical order, in one to four sentences."""
    page = (root / "docs" / "errors.md").read_text()
    headings = explained_in(page)
    assert headings == sorted(set(headings))
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        code, _, body = section.partition("\n")
        sentences = re.findall(r"[.!?](?=\s|$)", body)
        assert 1 <= len(sentences) <= 5, f"{code} has {len(sentences)} sentences"


def test_planted_codes_are_found(plant: Plant) -> None:
    """Codes are found in calls, class bodies and conditionals; other texts are not mistaken for codes."""
    text = """
class A(Exception):
    code = "by-class"
class B(Exception):
    code: str = "by-annotated-class"
raise A("…", code="by-call")
raise A("…", code="left" if x else "right")
Frame(code=variable, other="not-a-code")
"""
    assert codes_in(plant({"bad.py": text})) == {"by-class", "by-annotated-class", "by-call", "left", "right"}
