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
Run = Callable[[list[list[float]]], list[dict[str, Any]]]
decode = msgspec.json.Decoder(Question).decode
encode = msgspec.json.Encoder().encode


def session_run(model: str) -> Run:
    """The function from rows to answers of a model file with one float32 input and the outputs "label" and "probabilities"."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(rows: list[list[float]]) -> list[dict[str, Any]]:
        labels, probabilities = session.run(["label", "probabilities"], {name: np.array(rows, dtype=np.float32)})
        return [
            {"label": label, "probabilities": row} for label, row in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]

    return run


async def read(receive: Any) -> list[list[float]]:
    """The rows of a request."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message.get("more_body", False)
    return decode(body).instances


async def reply(send: Any, answers: list[dict[str, Any]]) -> None:
    """Send the answers to a request."""
    body = encode({"predictions": answers})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def application(model: str) -> Application:
    """The ASGI function for a model file: one run for each request."""
    run = session_run(model)

    async def serve(_scope: Any, receive: Any, send: Any) -> None:
        await reply(send, run(await read(receive)))

    return serve


def listen(serve: Application, port: int) -> None:
    """Serve an ASGI function on a port of this machine until the process is ended."""
    uvicorn.run(
        serve,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        lifespan="off",
        log_level="warning",
    )


if __name__ == "__main__":
    listen(application(sys.argv[1]), int(sys.argv[2]))
