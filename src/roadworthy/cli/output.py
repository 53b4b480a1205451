"""Output of the command line: results on standard output, everything else on standard error, JSON with `--json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from roadworthy.foundation.errors import RoadworthyError
from roadworthy.settings import Settings

_MOST_PROBLEMS = 20


def show(document: object, text: str, *, as_json: bool) -> None:
    """Print a result as JSON or as text."""
    print(as_text(document, indent=2) if as_json else text, flush=True)


def as_text(document: object, indent: int | None = None) -> str:
    """A result as JSON, on one line without `indent`."""
    import msgspec

    return json.dumps(msgspec.to_builtins(document), indent=indent, ensure_ascii=False)


def say(text: str) -> None:
    """Print a message that is not part of the result."""
    print(text, file=sys.stderr, flush=True)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their content, without rules, so that tools such as `awk` can read them."""
    texts = [list(headings), *([("-" if cell in (None, "") else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[number]) for line in texts) for number in range(len(headings))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in texts)
    return "\n".join(lines)


def facts(pairs: Mapping[str, object]) -> str:
    """One `name  value` per line, aligned; None and "" are left out."""
    shown = {name: value for name, value in pairs.items() if value not in (None, "")}
    width = max((len(name) for name in shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown.items())


def answers_of(signature: Mapping[str, Any]) -> str | None:
    """How a model with this signature answers; None for all rows at once."""
    return "in parts: ask with `roadworthy predict … --stream`, or Accept: text/event-stream" if signature.get("parts") else None


def short(digest: str | None) -> str:
    """The first twelve hexadecimal digits of a digest."""
    return (digest or "-").removeprefix("sha256:")[:12]


def size(count: int | None) -> str:
    """A number of bytes with its unit."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def show_error(error: RoadworthyError, *, as_json: bool) -> None:
    """Print an error on standard error: message, code, hint and request id."""
    if as_json:
        document: dict[str, Any] = {**error.facts, "error": error.message, "code": error.code, "hint": error.hint}
        say(json.dumps(document, ensure_ascii=False, default=str))
        return
    faults = error.facts.get("faults")
    lines = [f"error: {error.message}"]
    if isinstance(faults, list) and faults:
        lines = ["error: invalid settings"]
        lines += [f"  {fault['setting']} ({fault['origin']}): {fault['problem']}" for fault in faults]
    problems = error.facts.get("problems")
    if isinstance(problems, list) and len(problems) > 1:
        lines = [f"error: {error.message.partition(': ')[0]}:", *_each(problems)]
    lines.append(f"  code: {error.code}")
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    if error.facts.get("request_id"):
        lines.append(f"  request id: {error.facts['request_id']}")
    say("\n".join(lines))


def _each(problems: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each reason why a plan, a policy or a rollout was refused."""
    lines = []
    for each in problems[:_MOST_PROBLEMS]:
        if "problem" in each:
            lines.append(f"  - {each['path']}: {each['problem']}" if each.get("path") else f"  - {each['problem']}")
        else:
            lines.append(f"  - {each['text']} ({each['code']})")
    more = len(problems) - _MOST_PROBLEMS
    return [*lines, f"  and {more} more"] if more > 0 else lines


def quiet_children(settings: Settings) -> str:
    """The log level for child processes. When the log goes to this terminal, warnings only, unless `log.level` is set."""
    chosen = settings.origin("log.level") != "default"
    return settings.log.level if chosen or not sys.stderr.isatty() else "warning"
