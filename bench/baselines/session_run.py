"""A baseline for requests with many rows: ONNX Runtime alone in a process.

Run as `python -m bench.baselines.session_run MODEL.onnx ROWS.npy`. For each line on standard input it runs the session once on
all rows and prints the duration in seconds.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnxruntime


def main() -> None:
    """Run the session until standard input is closed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: np.load(sys.argv[2])}
    for _ in sys.stdin:
        begun = time.perf_counter()
        session.run(["label", "probabilities"], feeds)
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
