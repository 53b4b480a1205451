"""PyTriton. Run as `python pytriton_server.py MODEL.joblib PORT`. It answers Open Inference Protocol V2."""

from __future__ import annotations

import sys
from typing import Any

import joblib
import numpy as np
from pytriton.decorators import batch  # type: ignore[import-not-found, unused-ignore]
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor  # type: ignore[import-not-found, unused-ignore]
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found, unused-ignore]

pipeline = joblib.load(sys.argv[1])


@batch  # type: ignore[untyped-decorator, unused-ignore]
def predict(x: Any) -> dict[str, Any]:
    """Probabilities of the rows of a batch."""
    return {"predict_proba": pipeline.predict_proba(x)}


if __name__ == "__main__":
    columns = pipeline.n_features_in_
    port = int(sys.argv[2])
    config = TritonConfig(http_address="127.0.0.1", http_port=port, allow_grpc=False, allow_metrics=False, log_verbose=0)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="cells",
            infer_func=predict,
            inputs=[Tensor(name="x", dtype=np.float64, shape=(columns,))],
            outputs=[Tensor(name="predict_proba", dtype=np.float64, shape=(-1,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=1_000)),
        )
        triton.serve()
