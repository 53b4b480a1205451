"""Which runtimes of a package may serve, by its manifest alone: the original, and what was constructed from it.

Earlier releases also kept conversions that had only been compared with the original. Comparing finds what it looks at, and some
of them answered up to a tenth of ordinary rows wrongly, so packages that still hold one are served by the original in them.
Called by `package.py`, `audit.py` and `construct.py`.
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
    """Why the runtime may not serve, in one sentence without a full stop; None when it may."""
    if entry.name == NATIVE or entry.options.get(CONSTRUCTION) or entry.name in _CONSTRUCTED_BEFORE:
        return None
    return f"{entry.name} was only compared with the original, not constructed from it, so the original serves"


def served_options(entry: RuntimeEntry, signature: Signature) -> Mapping[str, Any]:
    """What the framework is given to load the runtime.

    Trees that were compiled before releases noted which values the original refuses get the narrowest limits that any of them
    had: what float32 holds.
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
    reason = "this package does not say which values its model refuses; pack the model again to have its own limits"
    return {**entry.options, "guards": guards, "refusal": reason} if guards else entry.options
