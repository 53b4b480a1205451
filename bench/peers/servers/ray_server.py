"""Ray Serve. Run as `python ray_server.py MODEL.joblib PORT`."""

from __future__ import annotations

import signal
import sys
from typing import Any

import joblib
import numpy as np
import ray  # type: ignore[import-not-found, unused-ignore]
from ray import serve  # type: ignore[import-not-found, unused-ignore]
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.5})  # type: ignore[untyped-decorator, unused-ignore]
class Cells:
    """The pipeline behind POST /predict."""

    def __init__(self, model: str) -> None:
        self.pipeline = joblib.load(model)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Predict, in the form of our answers."""
        rows = np.asarray((await request.json())["instances"])
        return {"predictions": [{"probabilities": row} for row in self.pipeline.predict_proba(rows).tolist()]}


if __name__ == "__main__":
    ray.init(address="local", num_cpus=1, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Cells.bind(sys.argv[1]), route_prefix="/predict")  # type: ignore[attr-defined, unused-ignore]
    signal.pause()
