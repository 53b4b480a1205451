"""The common form of benchmark results, printed as a table and written as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure.

    Attributes:
        measure: the name of the figure. value, unit: Roadworthy's figure; None if it could not be measured, with the reason in
            `measure`.
        baseline: the baseline's figure in the same run; None without a baseline.
        ratio: value / baseline, as the median over rounds; None without a baseline.
        target: the target as text; None for a figure without one.
        met: whether the target was reached; None without a target, or if the figure could not be measured.
        command: the command that repeats the measurement; set by `write`.
        interval: the 95 % bootstrap interval over the rounds: of `ratio`, or without a baseline of `value`.
    """

    measure: str
    value: float | None
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    target: str | None = None
    met: bool | None = None
    command: str = ""
    interval: tuple[float, float] | None = None


def unmeasured(name: str, target: str, reason: str) -> Measure:
    """A figure that this run could not measure."""
    return Measure(f"{name} (not measured: {reason})", None, "", target=target)


def write(name: str, measures: list[Measure], folder: Path = RESULTS) -> Path:
    """Write bench/results/<name>.json, a list of measures."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    told = [measure if measure.command else replace(measure, command=f"make bench-{name}") for measure in measures]
    path.write_text(json.dumps([asdict(measure) for measure in told], indent=2) + "\n")
    return path


def finish(name: str, measures: list[Measure], *, whole: bool = True) -> int:
    """Print the table, and write the file if `whole`; return exit status 1 when a target was missed."""
    print(table(measures))
    if whole:
        print(f"\nwritten to {write(name, measures)}")
    return 0 if all(measure.met is not False for measure in measures) else 1


def table(measures: list[Measure]) -> str:
    """The measures as aligned text, one per line."""
    head = ("measure", "value", "baseline", "ratio", "95 %", "target", "met")
    rows = [
        (
            measure.measure,
            f"{_short(measure.value)} {measure.unit}".strip(),
            _short(measure.baseline),
            "" if measure.ratio is None else f"{measure.ratio:.2f} x",
            "" if measure.interval is None else "{:.3g} to {:.3g}".format(*measure.interval),
            measure.target or "",
            {True: "yes", False: "NO", None: ""}[measure.met],
        )
        for measure in measures
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
