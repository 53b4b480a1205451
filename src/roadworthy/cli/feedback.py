"""`roadworthy feedback`: what became known of predictions, from a file."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from roadworthy.cli import exits
from roadworthy.cli.options import RemoteOptions, command
from roadworthy.cli.output import facts, show
from roadworthy.foundation.errors import InvalidInput

_UNSETTLED = ("unknown", "out-of-bounds", "closed")
"""Results after which the command fails: somebody has to send these again, or mend them."""
_BAR_FROM = 5_000
_MEANINGS = {
    "taken": "counted",
    "duplicate": "told before, nothing changed",
    "unknown": "no record of the prediction, or not yet",
    "not-in-rollout": "not drawn by a rollout",
    "no-evidence": "failed, or answered by a fallback",
    "not-asked": "the plan counts nothing of it",
    "out-of-bounds": "beyond the bounds of the plan",
    "closed": "the rollout takes no more",
}


@dataclass(frozen=True, kw_only=True)
class FeedbackOptions(RemoteOptions):
    """`feedback`."""

    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint that answered.")]
    file: Annotated[
        Path,
        typer.Option("--file", "-f", metavar="FILE", help="A .csv or .jsonl file with a column prediction_id."),
    ]


def feedback(options: FeedbackOptions) -> None:
    """Tell what became known of predictions: was the answer right, bad events, values of an A/B test's metrics.

    What was told before counts once, so a file may be sent again.
    """
    from roadworthy.client import Client
    from roadworthy.client.feedback import items_of

    items = items_of(list(_rows(options.file)))
    with Client.from_settings(options.settings.client) as client, _bar(len(items)) as progress:
        reply = client.feedback(options.endpoint, items, progress=progress)
    counts = {name: count for name, count in reply["counts"].items() if count}
    lines = {name: f"{count:,} ({_MEANINGS.get(name, name)})" for name, count in counts.items()}
    told = [each for each in reply["items"] if each.get("problem")][:10]
    problems = "".join(f"\n{each['prediction_id']}: {each.get('problem')}" for each in told)
    ignored = sorted({name for each in reply["items"] for name in each.get("ignored", ())})
    note = f"\nnot counted by the plan: {', '.join(ignored)}" if ignored else ""
    show(reply, f"{facts(lines)}{note}{problems}", as_json=options.json)
    if any(counts.get(name) for name in _UNSETTLED):
        raise typer.Exit(exits.FAILED)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The file's rows.

    Raises:
        InvalidInput: "invalid-feedback".
    """
    if path.suffix not in (".csv", ".jsonl"):
        raise _unreadable(path, "its name ends in neither .csv nor .jsonl")
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            yield from _csv_rows(path, handle) if path.suffix == ".csv" else _json_rows(path, handle)
    except UnicodeDecodeError as error:
        raise _unreadable(path, "it is not text in UTF-8") from error


def _csv_rows(path: Path, handle: Any) -> Iterator[dict[str, Any]]:
    import csv

    reader = csv.DictReader(handle, strict=True)
    try:
        if "prediction_id" not in (reader.fieldnames or ()):
            raise _unreadable(path, "it has no column prediction_id")
        for row in reader:
            if None in row or None in row.values():
                raise _unreadable(path, f"line {reader.line_num} has not as many cells as there are columns")
            yield row
    except csv.Error as error:
        raise _unreadable(path, f"line {reader.line_num}: {error}") from error


def _json_rows(path: Path, handle: Any) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(handle, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _unreadable(path, f"line {number} is no JSON") from error
        if not isinstance(row, dict):
            raise _unreadable(path, f"line {number} is no JSON object")
        yield row


def _unreadable(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path.name} cannot be read: {why}",
        code="invalid-feedback",
        hint="give a .csv or .jsonl file with prediction_id and any of correct, event and metrics; nothing of it was sent",
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
