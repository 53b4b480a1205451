"""A model inside an application: `rw.load` in the process that needs the answers, without a server.

The application is a queue of loan requests; a batch job and a desktop program look the same.
"""

# %% A package. In practice it comes from a file or, as `rw.load("limits:3")`, from the control plane.
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingRegressor

import roadworthy as rw

draw = np.random.default_rng(5)
training = pd.DataFrame({"income": draw.uniform(1_000, 9_000, 800).round(), "years": draw.integers(0, 30, 800)})
limit = training["income"] * 3 + training["years"] * 200
package = rw.pack(GradientBoostingRegressor(n_estimators=30, random_state=0).fit(training, limit), name="limits", inputs=training)


# %% The application
@dataclass(frozen=True)
class Decision:
    """What the customer is answered, and which exact model decided: keep both."""

    text: str
    digest: str


class Desk:
    """Decides requests. Load the model once, at the start: that proves it, and takes a second or so."""

    def __init__(self, path: Path, allowed: str | None) -> None:
        """Open the model.

        Raises:
            PackageError: the package is damaged, not allowed, or answers otherwise than in training.
        """
        self._model = rw.load(path, allow_code=allowed)

    def decide(self, requests: list[dict[str, Any]]) -> list[Decision]:
        """One decision for each request. A request that the model cannot read goes to a person; the others are not affected."""
        return [self._decide(request) for request in requests]

    def _decide(self, request: dict[str, Any]) -> Decision:
        asked = request.pop("asked")
        try:
            granted = float(self._model.predict([request])["prediction"][0])
        except rw.InvalidInput as error:
            return Decision(f"a person will look at it ({error})", self._model.digest)
        return Decision("granted" if asked <= granted else f"up to {granted:,.0f}", self._model.digest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._model.close()


# %% Run it
queue: list[dict[str, Any]] = [
    {"income": 5_000.0, "years": 10, "asked": 9_000},
    {"income": 1_500.0, "years": 1, "asked": 90_000},
    {"income": "plenty", "years": 4, "asked": 1_000},
]
with Desk(package.path, package.digest if package.carries_code else None) as desk:
    decisions = desk.decide(queue)
for decision in decisions:
    print(decision.text, decision.digest[:19])
assert decisions[0].text == "granted"
assert decisions[1].text.startswith("up to")
assert "a person" in decisions[2].text
