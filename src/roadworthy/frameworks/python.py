"""Any callable that takes rows and returns answers: a function, a method, an object with `__call__`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roadworthy.frameworks.answers import named_answers
from roadworthy.frameworks.code import examine_callable, load_callable, save_callable
from roadworthy.frameworks.framework import Loaded, ModelFiles, Nature, Preprocess, Saved
from roadworthy.frameworks.native import NativeLoaded
from roadworthy.frameworks.parts import PartsLoaded, Steps, begin, yields_parts
from roadworthy.schema.batch import Array
from roadworthy.schema.signature import Scalar, Signature


class PythonCallable:
    """A callable model; asked last, since other frameworks' models may be callable too."""

    name = "python"
    interface = 1
    suffixes = (".pkl", ".pickle")

    def read_file(self, path: Path) -> Any:
        """The pickled object."""
        return pickle.loads(path.read_bytes())  # noqa: S301  (the user's own file, in the user's own process)

    def recognises(self, model: object) -> bool:
        """Anything callable that is no class."""
        return callable(model) and not isinstance(model, type)

    def answer(self, model: Any, rows: Any) -> Mapping[str, Array]:
        """A dict or a frame by name; a bare array as "prediction"."""
        return named_answers(model(rows))

    def yields_parts(self, model: Any) -> bool:
        """Whether it is a generator function or an async generator function."""
        return yields_parts(model)

    def parts(self, model: Any, rows: Any) -> Steps:
        """What the model yields, as it yields it."""
        return begin(model, rows)

    def categories(self, _model: Any) -> Mapping[str, Sequence[Scalar]]:
        """A callable tells no labels."""
        return {}

    def save(self, model: Any, folder: Path) -> Saved:
        """One pickle with the user's own code by value."""
        return save_callable(model, folder)

    def examine(self, files: ModelFiles, options: Mapping[str, Any]) -> Nature:  # noqa: ARG002  (nothing to find)
        """A pickle is code."""
        return examine_callable(files)

    def load(
        self,
        files: ModelFiles,
        options: Mapping[str, Any],  # noqa: ARG002  (nothing to choose here)
        signature: Signature,
        threads: int,
        preprocess: Preprocess | None,
    ) -> Loaded:
        """Unpickle: executes what the file says, so only for an allowed package."""
        function = load_callable(files)
        if signature.parts:
            return PartsLoaded(function, signature, threads, preprocess)
        return NativeLoaded(lambda rows: self.answer(function, rows), signature, threads, preprocess)


FRAMEWORK = PythonCallable()
