"""Originals to convert: a fitted model and its rows, in the form that `pack` gives to the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from roadworthy.frameworks.discovery import framework_for
from roadworthy.frameworks.native import NativeLoaded
from roadworthy.optimize.candidates.candidate import Source
from roadworthy.schema.batch import Layout
from roadworthy.schema.infer import infer_inputs, infer_outputs
from roadworthy.schema.signature import Signature
from roadworthy.schema.tables import to_batch


def _source(model: Any, rows: Any) -> Source:
    framework = framework_for(model)
    inputs, container = infer_inputs(rows)
    signature = Signature(inputs, infer_outputs(framework.answer(model, rows[:50])), container)
    native = NativeLoaded(lambda table: framework.answer(model, table), signature, 1, None)
    training = to_batch(Layout(inputs), rows)
    return Source(model, signature, native.run, training.slice(0, 20), training)


@pytest.fixture
def make_source() -> Callable[[Any, Any], Source]:
    """A function from a fitted model and its training rows to the compiler's source."""
    return _source
