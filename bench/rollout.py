"""Rollouts that are judged by evidence: how often they err, how soon they see, and what callers notice: `make bench-rollout`.

Three parts, of which `--only` chooses. Simulated (`guarantees.py`): rates of error over thousands of rollouts; nothing is served.
Real (`real/`): good and broken versions under load on real processes, and how traffic is split. Switches (`switches.py`): whether
a request fails while versions are deployed and rolled back.
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
    """Measure, print, write; 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given more than once")
    parser.add_argument("--runs", type=int, default=RUNS, help="rollouts of each simulation")
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
