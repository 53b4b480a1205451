"""mosec. Run as `python mosec_server.py --address 127.0.0.1 --port PORT` with MODEL in the environment."""

from __future__ import annotations

import json
import os
from typing import Any

import joblib
import mosec  # type: ignore[import-not-found, unused-ignore]
import numpy as np


class Cells(mosec.Worker):  # type: ignore[misc, unused-ignore]
    """The pipeline behind POST /inference."""

    def __init__(self) -> None:
        super().__init__()
        self.pipeline = joblib.load(os.environ["MODEL"])

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Predict the requests of a batch together, each in the form of our answers."""
        rows = [np.asarray(request["instances"]) for request in data]
        probabilities = iter(self.pipeline.predict_proba(np.concatenate(rows)).tolist())
        return [{"predictions": [{"probabilities": next(probabilities)} for _ in part]} for part in rows]

    def serialize(self, data: dict[str, Any]) -> bytes:
        """The answer in one line, which costs less than mosec's own indented form."""
        return json.dumps(data).encode()


if __name__ == "__main__":
    server = mosec.Server()
    server.append_worker(Cells, num=1, max_batch_size=64, max_wait_time=1)
    server.run()
