"""Models that tests plant."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature

FIELDS = (Field("x", DType.FLOAT64),)
SIGNATURE = Signature(FIELDS, (Field("y", DType.FLOAT64),), Container.ARRAY)


def batch(*values: float) -> Batch:
    """Rows of one float column."""
    return Batch(Layout(FIELDS), len(values), (Block(np.array(values, dtype=np.float64).reshape(-1, 1)),))


@dataclass
class Doubler:
    """Answers twice each value; `hook` sees the values first and may misbehave. Remembers the sizes of its runs."""

    hook: Callable[[list[float]], list[float] | None] = lambda values: None
    concurrent: bool = True
    runtime: str = "planted"
    runs: list[int] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    closed: int = 0

    @property
    def package(self) -> Any:
        return type("Described", (), {"signature": SIGNATURE})()

    def run(self, rows: Batch) -> Batch:
        values = rows.blocks[0].values[:, 0].tolist()
        self.runs.append(len(values))
        self.threads.add(threading.get_ident())
        answers = self.hook(values) or [2 * value for value in values]
        return Batch(Layout(SIGNATURE.outputs), len(answers), (Block(np.array(answers).reshape(-1, 1)),))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def doubler() -> type[Doubler]:
    """The planted model's class."""
    return Doubler


@pytest.fixture
def rows() -> Callable[..., Batch]:
    """Makes batches."""
    return batch
