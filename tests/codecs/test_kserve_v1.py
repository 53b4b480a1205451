"""`:predict` is KServe's V1 protocol: KServe's own client asks a worker, in V1 and in V2."""

from __future__ import annotations

from typing import Any

import pytest

from tests.foreign import Foreign, foreign


@pytest.fixture(scope="module")
def worker(start_worker: Any, make_plan: Any) -> Any:
    """A worker with two endpoints."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    plan.endpoint("other", [plan.package(2)])
    return start_worker(plan).wait_ready()


@pytest.fixture(scope="module")
def kserve() -> Foreign:
    """An environment with KServe's client."""
    return foreign("kserve==0.21.0")


V1 = """
import asyncio, json, sys
import httpx
from kserve import InferenceRESTClient, RESTConfig

async def ask():
    client = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
    base, found = f"http://127.0.0.1:{sys.argv[1]}", {}
    found["live"] = await client.is_server_live(base)
    found["ready"] = await client.is_model_ready(base, "sum")
    found["lists"] = await client.infer(base, {"instances": [[1, 2, 3.5], [0, 0, 1]]}, model_name="sum")
    found["objects"] = await client.infer(base, {"instances": [{"c": 1, "a": 2, "b": 3}]}, model_name="sum")
    for name, model, body in (("refused", "sum", {"instances": [[1, 2]]}), ("unknown", "absent", {"instances": []})):
        try:
            await client.infer(base, body, model_name=model)
        except httpx.HTTPStatusError as error:
            found[name] = [error.response.status_code, str(error)]
    return found

print(json.dumps(asyncio.run(ask())))
"""


def test_kserves_client_asks_in_v1(worker: Any, kserve: Foreign) -> None:
    """Liveness at `/`, readiness of a model, rows of both shapes; it shows the words of a refusal."""
    found = kserve.run(V1, worker.port)
    assert (found["live"], found["ready"]) == (True, True)
    assert (found["lists"], found["objects"]) == ({"predictions": [6.5, 1.0]}, {"predictions": [6.0]})
    assert found["refused"][0] == 422
    assert "expected 3 values, got 2" in found["refused"][1]
    assert found["unknown"][0] == 404
    assert "no such endpoint" in found["unknown"][1]


V2 = """
import asyncio, json, sys
import numpy as np
from kserve import InferInput, InferRequest, InferenceRESTClient, RESTConfig

async def ask(binary):
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    base = f"http://127.0.0.1:{sys.argv[1]}"
    inputs = []
    for name, values in (("a", [1.0, 0.0]), ("b", [2.0, 0.0]), ("c", [3.5, 1.0])):
        tensor = InferInput(name, [2], "FP64")
        tensor.set_data_from_numpy(np.array(values), binary_data=binary)
        inputs.append(tensor)
    reply = await client.infer(base, InferRequest(model_name="sum", infer_inputs=inputs), model_name="sum")
    ready = [await client.is_server_live(base), await client.is_server_ready(base), await client.is_model_ready(base, "sum")]
    return ready, reply.outputs[0].as_numpy().tolist()

print(json.dumps([asyncio.run(ask(binary)) for binary in (False, True)]))
"""


def test_kserves_client_asks_in_v2(worker: Any, kserve: Foreign) -> None:
    """Tensors as JSON and as raw bytes."""
    assert kserve.run(V2, worker.port) == [[[True, True, True], [6.5, 1.0]]] * 2
