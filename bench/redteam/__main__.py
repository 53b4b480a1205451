"""`make redteam`: carries out the attacks one after the other and prints a table; exit status 1 when one succeeds."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.redteam import bulk, edges, forgery, forking, freezing, frozen, hosts, identity, prying, stopping, stores
from bench.redteam.attack import Attack, Ground, Line, carry_out
from bench.redteam.packages import scratch

ATTACKS: tuple[Attack, ...] = (
    *forgery.ATTACKS,
    *prying.ATTACKS,
    *identity.ATTACKS,
    *edges.ATTACKS,
    *freezing.ATTACKS,
    *frozen.ATTACKS,
    *forking.ATTACKS,
    *stopping.ATTACKS,
    *stores.ATTACKS,
    *hosts.ATTACKS,
    *bulk.ATTACKS,
)
_VERDICTS = {True: "holds", False: "FAILS", None: "not tried"}
_WIDTHS = (4, 70, 90, 0)
LIMIT_S, STOP_S = 600.0, 90.0
"""Time limit of the whole run in seconds, and the seconds that each stop beyond two adds."""


def row(line: Line) -> str:
    """One line of the table; an oversized cell widens its column."""
    return _aligned(line.item, line.tried, line.came, _VERDICTS[line.holds])


def _aligned(*cells: str) -> str:
    return "  ".join(" ".join(cell.split()).ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()


def carry_all(attacks: Sequence[Attack], stops: int, *, quiet: bool, time_factor: float = 1.0) -> list[Line]:
    """All lines, each printed when it is known. `time_factor` multiplies the time limits."""
    lines = []
    until = time.monotonic() + time_factor * (LIMIT_S + STOP_S * max(0, stops - 2))
    if not quiet:
        print(_aligned("item", "tried", "came", "verdict"))
    with scratch() as folder:
        common = Ground(Path(folder, "common"))
        common.folder.mkdir()
        try:
            for number, attack in enumerate(attacks):
                ground = Ground(Path(folder, str(number)), common, stops, time_factor)
                ground.folder.mkdir()
                for line in carry_out(attack, ground, until):
                    lines.append(line)
                    if not quiet:
                        print(row(line), flush=True)
        finally:
            common.close()
    return lines


def chosen(only: str, *, quick: bool) -> list[Attack]:
    """The attacks of these items, in the order of the table.

    Raises:
        ValueError: an unknown item.
    """
    wanted = {item.strip().upper() for item in only.split(",") if item.strip()}
    if unknown := wanted - {attack.item for attack in ATTACKS}:
        items = dict.fromkeys(attack.item for attack in ATTACKS)
        raise ValueError(f"unknown item: {', '.join(sorted(unknown))}; the items are {', '.join(items)}")
    return [attack for attack in ATTACKS if (not wanted or attack.item in wanted) and (attack.quick or not quick)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the attacks; return the exit status."""
    parser = argparse.ArgumentParser(prog="make redteam", description=__doc__)
    parser.add_argument("--only", default="", metavar="A1,B3", help="carry out only these items")
    parser.add_argument("--quick", action="store_true", help="carry out only attacks that take a few seconds")
    parser.add_argument("--json", action="store_true", help="print the lines as JSON at the end, instead of the table")
    parser.add_argument("--stops", type=int, default=2, help="number of times each plane is stopped under load (2)")
    parser.add_argument("--time-factor", type=float, default=1.0, help="factor for the time limit of each attack (1)")
    options = parser.parse_args(arguments)
    try:
        attacks = chosen(options.only, quick=options.quick)
    except ValueError as error:
        parser.error(str(error))
    lines = carry_all(attacks, options.stops, quiet=options.json, time_factor=options.time_factor)
    if options.json:
        print(json.dumps([asdict(line) for line in lines], indent=2, ensure_ascii=False))
    counts = Counter(line.holds for line in lines)
    print(f"{counts[True]} hold, {counts[False]} fail, {counts[None]} not tried", file=sys.stderr)
    return 1 if counts[False] else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the installations end, too
    sys.exit(main())
