"""A proved package in the caller's own process: the result of `roadworthy.load`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import TracebackType
from typing import Any, Self

from roadworthy.package.construct import Constructed
from roadworthy.package.prove import prove
from roadworthy.schema.batch import Layout
from roadworthy.schema.forms import library_of
from roadworthy.schema.signature import Signature
from roadworthy.schema.tables import batch_to_answers, to_batch


class Model:
    """A loaded, proved model. Use it as a context manager, or call `close`."""

    def __init__(self, constructed: Constructed, timestamp_integers: str | None = None) -> None:
        """Replay the golden examples first; `timestamp_integers` as in `roadworthy.load`.

        Raises:
            ProofFailed: the answers in this process differ from those of training.
        """
        prove(constructed)
        self._constructed = constructed
        self._layout = Layout(constructed.package.signature.inputs, timestamp_integers)

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.digest[:19]}, runtime={self.runtime!r})"

    @property
    def name(self) -> str:
        """The model's name."""
        return self._constructed.package.name

    @property
    def digest(self) -> str:
        """The package's digest."""
        return self._constructed.package.digest

    @property
    def runtime(self) -> str:
        """The name of the runtime in use."""
        return self._constructed.runtime

    @property
    def signature(self) -> Signature:
        """Typed inputs and outputs."""
        return self._constructed.package.signature

    def predict(self, data: Any) -> Any:
        """Answer the rows of a pandas or polars DataFrame, a numpy array, or a list of records or rows.

        Returns a dict of arrays by output name, rows first. For a DataFrame it returns a DataFrame of the same library (and
        index); an output with several values per row is a column of lists.

        Raises:
            InvalidInput: the rows do not fit the signature; nothing is converted silently.
        """
        answers = batch_to_answers(self._constructed.run(to_batch(self._layout, data)))
        library = library_of(data)
        if library not in ("pandas", "polars"):
            return answers
        columns = {name: values if values.ndim == 1 else values.tolist() for name, values in answers.items()}
        if library == "pandas":
            import pandas as pd

            return pd.DataFrame(columns, index=data.index)
        import polars as pl

        return pl.DataFrame(columns)

    def parts(self, data: Any) -> Iterator[dict[str, Any]]:
        """The answer of a model that answers in parts, part by part: a dict of arrays by output name, rows first. A model that
        answers at once gives one part. `predict` gives all parts, one below the other.

        Raises:
            InvalidInput: the rows do not fit the signature.
        """
        batch = to_batch(self._layout, data)
        parts = self._constructed.parts
        if parts is None:
            yield batch_to_answers(self._constructed.run(batch))
            return
        with closing(parts(batch)) as steps:
            yield from map(batch_to_answers, steps)

    def close(self) -> None:
        """Free memory and threads."""
        self._constructed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
