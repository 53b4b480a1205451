"""A graph that is packed together with the model it came from: judged as a conversion of our own is, by the same rows and search.

It stays what it is, a model that was only compared; the card says so. Called by `pack.py`.
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
    """The original as a runtime that answers under the names and types of the graph's outputs.

    Raises:
        PackError: "unknown-framework"; "original-outputs-differ", when it is asked.
    """
    framework = framework_for(original)
    native = NativeLoaded(lambda rows: _renamed(framework.answer(original, rows), signature), signature, 1, preprocess)
    return native.run


def _renamed(answers: Mapping[str, Array], signature: Signature) -> dict[str, Array]:
    fields = {field.name: field for field in signature.outputs}
    if not set(fields) <= set(answers):  # converters name outputs as they like; their order is the original's
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
        f"the graph answers {mine}, and the original answers {theirs}",
        code="original-outputs-differ",
        hint="convert the model so that the graph gives the same outputs, without zipmap",
    )


def compared_with_original(
    reference: Callable[[Batch], Batch], training: Training, golden: Batch, graph: Loaded, tolerance: Tolerance
) -> Outcome:
    """What the comparison found, for the card.

    Args:
        reference: of `answers_of`. training: the sample. golden: the golden inputs.
        graph: the loaded graph. tolerance: how far floats may lie apart.

    Raises:
        ProofFailed: "original-differs", naming the first difference.
    """
    source = Source(None, training.signature, reference, golden, training.sample, tolerance=tolerance)
    # A graph in float32 refuses values beyond it (`frameworks/onnx.py`), which its original may well take.
    asked = tuple(exam for exam in exams(source) if exam.kind != EXTREME)
    outcome = judge(Outcome(NATIVE, "onnx", kept=True, reason=""), source, asked, graph.run, ties=tolerance.rtol)
    if outcome.reason:
        facts: dict[str, object] = {"compared": dict(outcome.compared)}
        if outcome.difference is not None:
            facts |= {"row": outcome.difference.row, "field": outcome.difference.field}
        raise ProofFailed(
            f"the graph does not answer as its original: {outcome.reason}",
            code="original-differs",
            hint="pack the original itself; what can be compiled from it exactly is compiled",
            facts=facts,
        )
    rows = ", ".join(f"{count:,} {kind}" for kind, count in outcome.compared.items())
    return Outcome(
        NATIVE, "onnx", kept=True, reason=f"a foreign graph, only compared with its original: equal on {rows} rows",
        compared=outcome.compared,
    )  # fmt: skip
