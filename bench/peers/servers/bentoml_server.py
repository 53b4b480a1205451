"""BentoML. Served by `bentoml serve bentoml_server:Cells` with MODEL in the environment."""

from __future__ import annotations

import os
from typing import Any

import bentoml  # type: ignore[import-not-found, unused-ignore]
import joblib
import numpy as np


@bentoml.service(workers=1)  # type: ignore[untyped-decorator, unused-ignore]
class Cells:
    """The pipeline behind POST /predict."""

    def __init__(self) -> None:
        self.pipeline = joblib.load(os.environ["MODEL"])

    @bentoml.api  # type: ignore[untyped-decorator, unused-ignore]
    def predict(self, instances: list[list[float]]) -> dict[str, Any]:
        """Predict, in the form of our answers."""
        probabilities = self.pipeline.predict_proba(np.asarray(instances))
        return {"predictions": [{"probabilities": row} for row in probabilities.tolist()]}
