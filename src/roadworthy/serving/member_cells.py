"""Which runs in a member's slot of the slab are counted. A member is an application, so anything may stand there: a run that no
worker would write, or that names an endpoint of no snapshot, is left out, and spoils nothing else."""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache
from typing import NamedTuple

from roadworthy.contract.evidence import EXCLUDED, OUTPUT_BINS, VARIANTS
from roadworthy.foundation.slab import COUNTER, GAUGE, NamedCells
from roadworthy.runtime.queue.run_times import BINS
from roadworthy.serving.histogram import WIDTH

_MOST_HASH = (1 << 63) - 1
_MOST = 1 << 50
"""The largest number in a cell: even that of a whole slot added up fits a cell, and 35 years are less, in microseconds."""
_MOST_CHARACTERS = {"signal": 80, "version": 80}
"""Of a label, as the control plane takes it; of others 64."""
_NUMBERS = frozenset({"generation", "number", "bin"})
_ONE_OF = {"variant": VARIANTS, "excluded": EXCLUDED}


class _Shape(NamedTuple):
    """How a kind of run looks: its labels, the number of its cells, and the largest value in one."""

    labels: tuple[str, ...]
    width: int = 1
    kind: int = COUNTER
    most: int = _MOST


_VERSION = ("endpoint", "generation", "version", "digest")
_SAMPLE = ("rollout", "generation", "signal", "variant")
_SHAPES = {
    "requests": _Shape((*_VERSION, "outcome")),
    "latency": _Shape(_VERSION, WIDTH),
    "rows": _Shape(_VERSION),
    "in-flight": _Shape(_VERSION, kind=GAUGE),
    "lost": _Shape(_VERSION),
    "streams": _Shape(_VERSION, kind=GAUGE),
    "stream-parts": _Shape(_VERSION),
    "stream-first": _Shape(_VERSION, WIDTH),
    "stream-between": _Shape(_VERSION, WIDTH),
    "stream-ended": _Shape((*_VERSION, "reason")),
    "refused": _Shape(("endpoint", "code")),
    "queue": _Shape(("endpoint",), kind=GAUGE),
    "cache": _Shape(("endpoint", "result")),
    "fallback": _Shape(("endpoint", "kind", "reason")),
    "shared-cache": _Shape(("event",)),
    "records-lost": _Shape(()),
    "run-times": _Shape(("digest", "bin"), 48),
    "evidence": _Shape(_SAMPLE, 2),
    "values": _Shape(_SAMPLE, 2),
    "bins": _Shape(_SAMPLE, OUTPUT_BINS),
    "excluded": _Shape(("rollout", "generation", "excluded", "variant")),
    "pairs": _Shape(("rollout", "generation", "signal"), 3),
    "units": _Shape((*_SAMPLE, "number"), 60, most=_MOST_HASH),
    "units-overflow": _Shape(("rollout",)),
    "canary-crashes": _Shape(("rollout",)),
}


def is_sound(cells: NamedCells, endpoints: Container[str] | None = None) -> bool:
    """Whether a run of a member's slot is counted. `endpoints`: those that the gateway serves or has served; None: any."""
    found = _read(cells.name)
    if found is None:
        return False
    shape, endpoint = found
    if endpoint is not None and endpoints is not None and endpoint not in endpoints:
        return False
    values = cells.values
    return cells.kind == shape.kind and len(values) == shape.width and min(values) >= 0 and max(values) <= shape.most


@lru_cache(8_192)
def _read(name: str) -> tuple[_Shape, str | None] | None:
    """The shape of a run with this name, and the endpoint that it names; None for a name that no worker gives."""
    kind, *labels = name.split("\x1f")
    shape = _SHAPES.get(kind)
    if shape is None or len(labels) != len(shape.labels):
        return None
    if not all(map(_fits, shape.labels, labels)):
        return None
    return shape, labels[0] if shape.labels[:1] == ("endpoint",) else None


def _fits(label: str, text: str) -> bool:
    if len(text) > _MOST_CHARACTERS.get(label, 64) or not (text.isascii() and text.isprintable()):
        return False
    if label == "signal" and "/" in text:  # the control plane's keys are separated by it
        return False
    if label in _NUMBERS or (label == "signal" and text.isdigit()):
        return text.isdigit() and len(text) < 16 and (label != "bin" or int(text) < BINS)
    return text in _ONE_OF.get(label, (text,))
