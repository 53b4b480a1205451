"""What an endpoint answered, and by which exact version."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer.

    Attributes:
        predictions: one value a row: the bare value when the model has one output, else a dict by output name.
        id: the prediction's id; row i is `id:i` in the records.
        version: what answered, for example "flights:3". digest: of its package. runtime: what ran it.
        request_id: for the operator's log.
        fallback: what answered where the version could not, and why, such as 'static; reason="circuit-open"'; else "".
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
        """One row a prediction, one column an output ("prediction" when there is one only), under the index of the rows asked.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd

        records = [row if isinstance(row, dict) else {"prediction": row} for row in self.predictions]
        return pd.DataFrame.from_records(records, index=self.index)
