"""What the gateway tells about itself and its endpoints: the JSON documents behind the GET routes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import roadworthy
from roadworthy.gateway.endpoints import Arm, Endpoint
from roadworthy.schema.signature import Field


def server() -> dict[str, Any]:
    """GET /v2."""
    return {"name": "roadworthy", "version": roadworthy.__version__, "extensions": ["binary_tensor_data"]}


def names(endpoints: Sequence[str]) -> dict[str, Any]:
    """GET /v1/models and /v2/models."""
    return {"models": sorted(endpoints)}


def endpoint(served: Endpoint) -> dict[str, Any]:
    """GET /v1/models/{endpoint}."""
    document = served.signature.to_document()
    return {
        "name": served.name,
        "ready": True,
        "generation": served.entry.generation,
        "versions": [
            {
                "version": f"{arm.model}:{arm.number}",
                "digest": arm.version.digest,
                "runtime": arm.version.runtime,
                "weight": side.weight,
            }
            for arm, side in zip(served.split.arms, served.entry.split, strict=True)
        ],
        "inputs": document["inputs"],
        "outputs": document["outputs"],
    }


def metadata(served: Endpoint, arm: Arm | None = None) -> dict[str, Any]:
    """GET /v2/models/{endpoint}[/versions/{number}]."""
    arms = served.split.arms if arm is None else (arm,)
    datatypes = served.open_inference.datatypes
    return {
        "name": served.name,
        "versions": [str(each.number) for each in arms],
        "platform": f"roadworthy_{arms[0].version.runtime}",
        "inputs": [{**_tensor(field), "datatype": datatypes[field.name]} for field in served.signature.inputs],
        "outputs": [_tensor(field) for field in served.signature.outputs],
    }


def ready(served: Endpoint, *, ready: bool) -> dict[str, Any]:
    """GET /v2/models/{endpoint}/ready."""
    return {"name": served.name, "ready": ready}


def _tensor(field: Field) -> dict[str, Any]:
    return {"name": field.name, "datatype": field.dtype.open_inference, "shape": [-1, *field.shape]}
