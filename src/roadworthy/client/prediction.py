"""The answer of an endpoint, with the exact version that gave it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer.

    Attributes:
        predictions: one value per row: a plain value when the model has one output, else a dict by output name.
        id: the prediction's id; row i is `id:i` in the records.
        version: the version that answered, such as "flights:3". digest: of its package. runtime: the runtime that ran it.
        request_id: the id under which the gateway logs the request.
        fallback: the fallback that answered instead of the version, and why, such as 'static; reason="circuit-open"'; "" without.
        cache_status: what the endpoint's cache did (RFC 9211), such as "roadworthy; hit; ttl=12"; "" without a cache.
    """

    predictions: list[Any]
    id: str
    version: str
    digest: str
    runtime: str
    request_id: str
    fallback: str = ""
    cache_status: str = ""
    index: Any = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.predictions)

    def to_frame(self) -> pd.DataFrame:
        """A frame with one row per prediction and one column per output ("prediction" for one output), with the input's index.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd

        records = [row if isinstance(row, dict) else {"prediction": row} for row in self.predictions]
        return pd.DataFrame.from_records(records, index=self.index)
