"""Compares an ONNX graph with the model that it was converted from, on the same rows and with the same search as our own
conversions. The graph counts as compared, not as constructed; the card says so. Called by `pack.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from roadworthy.foundation.errors import PackError, ProofFailed
from roadworthy.frameworks.discovery import framework_for
from roadworthy.frameworks.framework import Loaded, Preprocess
from roadworthy.frameworks.native import NativeLoaded
from roadworthy.optimize.candidates.candidate import Source
from roadworthy.optimize.compile import Outcome, judge
from roadworthy.optimize.equal import Tolerance
from roadworthy.optimize.exams import EXTREME, exams
from roadworthy.package.packing.training import Training
from roadworthy.package.runtimes import NATIVE
from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.signature import Field, Signature


def answers_of(original: Any, signature: Signature, preprocess: Preprocess | None) -> Callable[[Batch], Batch]:
    """The original as a runtime whose answers have the names and types of the graph's outputs.

    Raises:
        PackError: "unknown-framework"; "original-outputs-differ" when the runtime is called.
    """
    framework = framework_for(original)
    native = NativeLoaded(lambda rows: _renamed(framework.answer(original, rows), signature), signature, 1, preprocess)
    return native.run


def _renamed(answers: Mapping[str, Array], signature: Signature) -> dict[str, Array]:
    fields = {field.name: field for field in signature.outputs}
    if not set(fields) <= set(answers):  # converters choose their own output names but keep the original's order
        if len(fields) != len(answers):
            raise _other_outputs(answers, signature)
        answers = dict(zip(fields, answers.values(), strict=True))
    return {name: _as(np.asarray(answers[name]), field, answers, signature) for name, field in fields.items()}


def _as(values: Array, field: Field, answers: Mapping[str, Array], signature: Signature) -> Array:
    if field.shape == (1,) and values.ndim == 1:
        values = values.reshape(-1, 1)
    if values.shape[1:] != field.shape or (values.dtype.kind in "iufb") != (field.dtype.numpy.kind in "iufb"):
        raise _other_outputs(answers, signature)
    return values.astype(field.dtype.numpy) if values.dtype.kind in "iufb" else values


def _other_outputs(answers: Mapping[str, Array], signature: Signature) -> PackError:
    mine, theirs = ", ".join(field.name for field in signature.outputs), ", ".join(answers)
    return PackError(
        f"the graph's outputs ({mine}) do not match the original's ({theirs})",
        code="original-outputs-differ",
        hint="convert the model so that the graph has the same outputs (zipmap=False)",
    )


def compared_with_original(
    reference: Callable[[Batch], Batch], training: Training, golden: Batch, graph: Loaded, tolerance: Tolerance
) -> Outcome:
    """Compare the graph with its original; the outcome goes into the card.

    Args:
        reference: of `answers_of`. training: the sample. golden: the golden inputs.
        graph: the loaded graph. tolerance: how far floats may differ.

    Raises:
        ProofFailed: "original-differs", naming the first difference.
    """
    source = Source(None, training.signature, reference, golden, training.sample, tolerance=tolerance)
    # A float32 graph refuses values beyond float32 (`frameworks/onnx.py`), which its original may accept.
    asked = tuple(exam for exam in exams(source) if exam.kind != EXTREME)
    outcome = judge(Outcome(NATIVE, "onnx", kept=True, reason=""), source, asked, graph.run, ties=tolerance.rtol)
    if outcome.reason:
        facts: dict[str, object] = {"compared": dict(outcome.compared)}
        if outcome.difference is not None:
            facts |= {"row": outcome.difference.row, "field": outcome.difference.field}
        raise ProofFailed(
            f"the graph's answers differ from its original's: {outcome.reason}",
            code="original-differs",
            hint="pack the original itself; packing compiles it if it can be compiled exactly",
            facts=facts,
        )
    rows = ", ".join(f"{count:,} {kind}" for kind, count in outcome.compared.items())
    return Outcome(
        NATIVE, "onnx", kept=True, reason=f"a foreign graph, only compared with its original: equal on {rows} rows",
        compared=outcome.compared,
    )  # fmt: skip
