"""The environment variables of child processes. A confined one gets those that say where libraries are and how many threads to
use, and no possible secret."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = frozenset({"PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD"})
_FAMILIES = (
    *("PYTHON", "LC_", "MALLOC_", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "NUMBA_"),
    *(
        "CUDA_",
        "NVIDIA_",
        "TF_CPP_",
        "TF_ENABLE_",
        "TF_NUM_",
        "TF_XLA_",
        "XLA_",
        "TORCH_",
        "PYTORCH_",
        "ORT_",
        "ROCR_",
        "HIP_",
    ),
)

_DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Otherwise OpenMP threads use a core while they wait for work, and on a busy machine take it from those that they wait for."""


def passed_on() -> dict[str, str]:
    """The variables of this process, and defaults for those that it lacks."""
    return {**_DEFAULTS, **os.environ}


def filtered(more: Mapping[str, str]) -> dict[str, str]:
    """The variables of this process that a confined one gets, and `more`."""
    passed = {name: text for name, text in os.environ.items() if name in _NAMES or name.startswith(_FAMILIES)}
    return {**passed, **more}
