"""Frameworks are found by entry points; an unknown name or model is an error that lists the known ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from roadworthy.foundation.errors import PackageRefused, PackError
from roadworthy.frameworks.discovery import framework_for, framework_named, frameworks


def test_python_is_asked_last() -> None:
    """Callables come last, since other models may be callable too."""
    assert list(frameworks())[-1] == "python"
    assert {"onnx", "scikit-learn"} <= set(frameworks())


def test_an_unknown_model_lists_what_is_known() -> None:
    """At pack time."""
    with pytest.raises(PackError) as caught:
        framework_for({"weights": [1]})
    assert caught.value.code == "unknown-framework"
    assert all(name in (caught.value.hint or "") for name in frameworks())


def test_an_unknown_name_lists_what_is_known() -> None:
    """In a package; a hostile name is cut."""
    with pytest.raises(PackageRefused) as caught:
        framework_named("x" * 10_000)
    assert caught.value.code == "unknown-framework"
    assert len(str(caught.value.facts)) < 200


def test_a_class_is_no_model() -> None:
    """Calling a class with the rows would construct it, which is never meant."""
    with pytest.raises(PackError):
        framework_for(dict)


def test_looking_imports_no_framework_library() -> None:
    """Describing a package stays light."""
    source = (
        "import sys; from roadworthy.frameworks.discovery import frameworks; frameworks(); "
        "print(sorted({'sklearn', 'onnx', 'onnxruntime', 'pandas', 'cloudpickle'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True).stdout == "[]\n"
