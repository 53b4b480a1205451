"""A baseline as many people write it today: FastAPI, a pydantic model, and a handler that calls the scikit-learn pipeline.

Run as `python -m bench.baselines.fastapi_sklearn MODEL.joblib PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

import joblib
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Question(BaseModel):
    """The request's body."""

    instances: list[list[float]]


class Prediction(BaseModel):
    """One row's answer."""

    label: int
    probabilities: list[float]


class Answer(BaseModel):
    """The reply's body."""

    predictions: list[Prediction]


def application(model: str) -> FastAPI:
    """The service for a pipeline saved by joblib; it calls the pipeline once per request."""
    app = FastAPI()
    pipeline: Any = joblib.load(model)

    @app.post("/predict")
    def predict(question: Question) -> Answer:
        probabilities = pipeline.predict_proba(np.asarray(question.instances))
        labels = pipeline.classes_[probabilities.argmax(axis=1)]
        return Answer(
            predictions=[
                Prediction(label=int(label), probabilities=[float(value) for value in row])
                for label, row in zip(labels, probabilities, strict=True)
            ]
        )

    return app


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning")
