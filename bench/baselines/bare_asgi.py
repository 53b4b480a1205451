"""A baseline for the gateway: the minimal Python server of an ONNX model over HTTP.

Run as `python -m bench.baselines.bare_asgi MODEL.onnx PORT`. It is uvicorn with a raw ASGI function that decodes the same JSON,
runs the same session and encodes the same answer, without keys, checks, records, metrics or versions.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import uvicorn


class Question(msgspec.Struct):
    """The request's body."""

    instances: list[list[float]]


Application = Callable[[Any, Any, Any], Awaitable[None]]


def application(model: str) -> Application:
    """The ASGI function for a model file with one float32 input and the outputs "label" and "probabilities"."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    decode = msgspec.json.Decoder(Question).decode
    encode = msgspec.json.Encoder().encode

    async def serve(_scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message.get("more_body", False)
        rows = np.array(decode(body).instances, dtype=np.float32)
        labels, probabilities = session.run(["label", "probabilities"], {name: rows})
        answers = [
            {"label": label, "probabilities": row} for label, row in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]
        reply = encode({"predictions": answers})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(reply)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    return serve


if __name__ == "__main__":
    uvicorn.run(
        application(sys.argv[1]),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        lifespan="off",
        log_level="warning",
    )
