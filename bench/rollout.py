"""Rollouts judged by evidence: their error rates, their speed, and their effect on callers: `make bench-rollout`.

It has three parts, selected with `--only`. Simulated (`guarantees.py`): error rates over thousands of simulated rollouts. Real
(`real/`): healthy and broken versions under load on real processes, and the split of traffic. Switches (`switches.py`): failed
requests while versions are deployed and rolled back.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench import guarantees, switches
from bench.real import measuring
from bench.report import Measure, finish

SEED = 20261121
RUNS = 10_000
PARTS = ("simulated", "real", "switches")


def main() -> int:
    """Measure, print, write; exit status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="run this part; may be repeated")
    parser.add_argument("--runs", type=int, default=RUNS, help="number of rollouts per simulation")
    parser.add_argument("--rollouts", type=int, default=measuring.ROLLOUTS, help="real rollouts")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    parts = arguments.only or PARTS
    print(f"seed {arguments.seed}; each part adds its own numbers to it", flush=True)
    measures: list[Measure] = []
    if "simulated" in parts:
        measures += guarantees.measures(arguments.runs, arguments.seed)
    if "real" in parts:
        measures += measuring.measures(measuring.Plan(rollouts=arguments.rollouts), arguments.seed)
    if "switches" in parts:
        with tempfile.TemporaryDirectory() as folder:
            measures += switches.run(Path(folder), switches.Plan()).measures()
    enough = arguments.runs >= RUNS and arguments.rollouts >= measuring.LEAST_ROLLOUTS
    return finish("rollout", measures, whole=set(parts) == set(PARTS) and enough)


if __name__ == "__main__":
    sys.exit(main())
