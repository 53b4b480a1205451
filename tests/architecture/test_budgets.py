"""Files and functions stay small enough to read at once."""

from __future__ import annotations

import ast
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

Plant = Callable[[dict[str, str]], Path]

FILE_HARD, FILE_MEDIAN = 700, 150
"""A limit of 500 lines had split one class into two files, neither of which could be read without the other."""
FUNCTION_HARD, FUNCTION_P90 = 60, 30
PARAMETERS = 8
"""Includes `self`. A limit of 6 had led to parameter objects without a meaning of their own."""
FOLDER_HARD = 20
"""Files in a folder, `__init__.py` excluded; a larger folder is hard to search."""


def file_faults(source: Path) -> list[str]:
    """Files over the hard limit, and the median if it exceeds its limit."""
    lengths = {path: len(path.read_text().splitlines()) for path in source.rglob("*.py")}
    faults = [f"{path.relative_to(source)}: {n} lines" for path, n in sorted(lengths.items()) if n > FILE_HARD]
    median = statistics.median(n for n in lengths.values() if n > 1)
    return faults + ([f"the median file has {median:.0f} lines"] if median > FILE_MEDIAN else [])


def folder_faults(source: Path) -> list[str]:
    """Folders with more files than the limit."""
    counts = Counter(path.parent for path in source.rglob("*.py") if path.name != "__init__.py")
    return [f"{folder.relative_to(source)}: {n} files" for folder, n in sorted(counts.items()) if n > FOLDER_HARD]


def function_faults(source: Path) -> list[str]:
    """Functions that are too long or take too many parameters, and the 90th percentile when it is too long."""
    functions = list(_functions(source))
    faults = [f"{place}: {length} lines" for place, length, _ in functions if length > FUNCTION_HARD]
    faults += [f"{place}: {count} parameters" for place, _, count in functions if count > PARAMETERS]
    lengths = sorted(length for _, length, _ in functions)
    p90 = lengths[int(0.9 * len(lengths))]
    return faults + ([f"a tenth of the functions has over {p90} lines"] if p90 > FUNCTION_P90 else [])


def _functions(source: Path) -> Iterator[tuple[str, int, int]]:
    """(place, lines, parameters) of every function and method; `self` counts, *args and **options do not."""
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = node.args
                count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{path.relative_to(source)}:{node.lineno} {node.name}", length, count


def test_files_are_within_budget(source: Path) -> None:
    """No file is over 700 lines and the median is at most 150."""
    assert file_faults(source) == []


def test_folders_are_within_budget(source: Path) -> None:
    """No folder holds more than 20 files."""
    assert folder_faults(source) == []


def test_a_planted_full_folder_is_found(plant: Plant) -> None:
    """A folder of 21 files is named; its `__init__.py` does not count."""
    files = {f"room/file_{number}.py": "" for number in range(21)}
    assert folder_faults(plant({**files, "room/__init__.py": ""})) == ["room: 21 files"]


def test_functions_are_within_budget(source: Path) -> None:
    """No function is over 60 lines or eight parameters, and nine of ten have at most 30 lines."""
    assert function_faults(source) == []


def test_a_planted_long_file_is_found(plant: Plant) -> None:
    """A file of 701 lines is named, and so is the median that it raises."""
    faults = file_faults(plant({"long.py": "x = 1\n" * 701}))
    assert faults == ["long.py: 701 lines", "the median file has 701 lines"]


def test_planted_long_functions_are_found(plant: Plant) -> None:
    """A function of 61 lines and one of nine parameters are named; keyword-only parameters count."""
    long = "def long():\n" + "    x = 1\n" * 60
    wide = "def wide(self, a, b, c, d, *rest, e, f, g, h, **options): ...\n"
    faults = function_faults(plant({"room/bad.py": long + wide}))
    assert "room/bad.py:1 long: 61 lines" in faults
    assert "room/bad.py:62 wide: 9 parameters" in faults
    assert "a tenth of the functions has over 61 lines" in faults
