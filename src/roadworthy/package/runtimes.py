"""Decides from the manifest alone which runtimes may serve: the original, and runtimes constructed from it.

Earlier releases also kept conversions that had only been compared with the original. A comparison sees only the rows it is made
on, and some of these conversions answered up to a tenth of ordinary rows wrongly. In packages that hold one, the original serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from roadworthy.optimize.candidates.candidate import CONSTRUCTION
from roadworthy.package.manifest import RuntimeEntry
from roadworthy.schema.batch import Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Signature

NATIVE = "native"
"""The name of the original among a package's runtimes."""
_CONSTRUCTED_BEFORE = frozenset({"onnx-exact", "onnx-linear"})
"""Runtimes that earlier releases constructed without stating it."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def withheld(entry: RuntimeEntry) -> str | None:
    """The reason why the runtime may not serve, one sentence without a full stop; None when it may."""
    if entry.name == NATIVE or entry.options.get(CONSTRUCTION) or entry.name in _CONSTRUCTED_BEFORE:
        return None
    return f"{entry.name} was only compared with the original, not constructed from it; the original serves"


def served_options(entry: RuntimeEntry, signature: Signature) -> Mapping[str, Any]:
    """The options with which the framework loads the runtime.

    Earlier releases compiled trees without recording which values the original refuses. Those trees get the narrowest limits that
    any of them had: the range of float32.
    """
    if entry.name != "onnx-exact" or entry.options.get(CONSTRUCTION):
        return entry.options
    layout = Layout(signature.inputs)
    guards = [
        {"block": number, "column": column, "low": repr(-_FLOAT32_MAX), "high": repr(_FLOAT32_MAX)}
        for number, form in enumerate(layout.blocks)
        if form.dtype is DType.FLOAT64
        for column in range(layout.fields[form.fields[0]].shape[0] if form.tensor else len(form.fields))
    ]
    reason = "this package does not state which values its model refuses; pack the model again to record them"
    return {**entry.options, "guards": guards, "refusal": reason} if guards else entry.options
