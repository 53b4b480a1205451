"""LitServe. Run as `python litserve_server.py MODEL.joblib PORT`."""

from __future__ import annotations

import sys
from typing import Any

import joblib
import litserve  # type: ignore[import-not-found, unused-ignore]
import numpy as np


class Cells(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """The pipeline behind POST /predict."""

    def setup(self, device: str) -> None:
        """Load the model once per worker; the device is the CPU."""
        self.place = device
        self.pipeline = joblib.load(sys.argv[1])

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """The rows. There is no annotation, since LitServe would read it as a schema."""
        return np.asarray(request["instances"])

    def predict(self, rows: Any) -> Any:
        """Probabilities."""
        return self.pipeline.predict_proba(rows)

    def encode_response(self, probabilities: Any) -> dict[str, Any]:
        """The answer, in the form of ours."""
        return {"predictions": [{"probabilities": row} for row in probabilities.tolist()]}


if __name__ == "__main__":
    server = litserve.LitServer(Cells(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, log_level="warning")
