"""`roadworthy feedback`: send feedback on predictions from a file."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from roadworthy.cli import exits
from roadworthy.cli.options import REQUIRED, RemoteOptions, argument, command, option
from roadworthy.cli.output import facts, show
from roadworthy.foundation.errors import InvalidInput

_UNSETTLED = ("unknown", "out-of-bounds", "closed", "invalid")
"""Results after which the command fails: these items must be corrected or sent again."""
_BAR_FROM = 5_000
_MOST_SHOWN = 10
_MEANINGS = {
    "taken": "counted",
    "duplicate": "sent before, nothing changed",
    "unknown": "no record of the prediction, or no record yet",
    "not-in-rollout": "not assigned by a rollout",
    "no-evidence": "failed, or answered by a fallback",
    "not-asked": "the plan uses none of its fields",
    "out-of-bounds": "outside the bounds of the plan",
    "closed": "the rollout no longer accepts feedback",
    "invalid": "cannot be read",
}


@dataclass(frozen=True, kw_only=True)
class FeedbackOptions(RemoteOptions):
    """`feedback`."""

    endpoint: str = argument("ENDPOINT", "The endpoint that answered.")
    file: Path = option(
        "--file -f",
        "Read the feedback from this .csv or .jsonl file with a column prediction_id.",
        REQUIRED,
        metavar="FILE",
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the file, or the last line of a record that spans several.

    Attributes:
        row: None when the line cannot be read; `problem` says why.
    """

    number: int
    row: dict[str, Any] | None
    problem: str = ""


def feedback(options: FeedbackOptions) -> None:
    """Send feedback on predictions to their rollout.

    Feedback says whether an answer was right, names bad events, or gives values of an A/B test's metrics. Each item counts once,
    so a file may be sent again. A line that cannot be read does not stop the others.
    """
    from msgspec import to_builtins

    from roadworthy.client.feedback import items_of

    lines = list(_lines(options.file))
    if lines and all(line.row is None for line in lines):
        raise _unreadable(options.file, f"line {lines[0].number}: {lines[0].problem}")
    items = items_of(line.row for line in lines if line.row is not None)
    with options.client() as client, _bar(len(items)) as progress:
        reply = client.feedback(options.endpoint, items, progress=progress)
    outcomes = iter(reply.items)
    told: list[dict[str, Any]] = [
        {"line": line.number, **(to_builtins(next(outcomes)) if line.row is not None else _lost(line))} for line in lines
    ]
    found = Counter(str(each["result"]) for each in told)
    counts = {name: found[name] for name in _MEANINGS if found[name]}
    texts = {name: f"{count:,} ({_MEANINGS[name]})" for name, count in counts.items()}
    ignored = sorted({name for each in reply.items for name in each.ignored})
    note = f"\nnot counted by the plan: {', '.join(ignored)}" if ignored else ""
    show({"items": told, "counts": counts}, f"{facts(texts)}{note}{_problems(told)}", as_json=options.json)
    if any(counts.get(name) for name in _UNSETTLED):
        raise typer.Exit(exits.FAILED)


def _lost(line: _Line) -> Mapping[str, object]:
    return {"prediction_id": None, "result": "invalid", "problem": line.problem}


def _problems(told: list[dict[str, Any]]) -> str:
    wrong = [each for each in told if each.get("problem")]
    shown = [
        f"\nline {each['line']}, {each['prediction_id'] or 'no prediction_id'}: {each['problem']}" for each in wrong[:_MOST_SHOWN]
    ]
    more = f"\n{len(wrong) - len(shown):,} more; --json has each" if len(wrong) > len(shown) else ""
    return "".join(shown) + more


def _lines(path: Path) -> Iterator[_Line]:
    """The file's lines.

    Raises:
        InvalidInput: "invalid-feedback": the file as a whole cannot be read.
    """
    if path.suffix not in (".csv", ".jsonl"):
        raise _unreadable(path, "expected a name that ends in .csv or .jsonl")
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            yield from _csv_lines(path, handle) if path.suffix == ".csv" else _json_lines(handle)
    except UnicodeDecodeError as error:
        raise _unreadable(path, "expected text in UTF-8") from error


def _csv_lines(path: Path, handle: Any) -> Iterator[_Line]:
    import csv

    reader = csv.DictReader(handle, strict=True)
    try:
        if "prediction_id" not in (reader.fieldnames or ()):
            raise _unreadable(path, "it has no column prediction_id")
        for row in reader:
            if None in row or None in row.values():
                yield _Line(reader.line_num, None, "the number of cells differs from the number of columns")
            else:
                yield _Line(reader.line_num, row)
    except csv.Error as error:
        raise _unreadable(path, f"line {reader.line_num}: {error}") from error


def _json_lines(handle: Any) -> Iterator[_Line]:
    for number, line in enumerate(handle, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield _Line(number, None, "it is not valid JSON")
            continue
        yield _Line(number, row) if isinstance(row, dict) else _Line(number, None, "it is not a JSON object")


def _unreadable(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path.name} cannot be read: {why}",
        code="invalid-feedback",
        hint="give a .csv or .jsonl file with prediction_id and any of correct, event and metrics; nothing was sent",
    )


@contextlib.contextmanager
def _bar(items: int) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar while many items travel, on a terminal only."""
    if not sys.stderr.isatty() or items < _BAR_FROM:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("feedback", total=items)
        yield lambda sent, _total: progress.update(task, completed=sent)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "feedback")(feedback)
