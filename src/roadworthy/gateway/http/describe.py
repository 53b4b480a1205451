"""The JSON documents of the GET routes, about the gateway and its endpoints. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadworthy.schema.signature import Field
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.variant import Variant
from roadworthy.version import __version__


def server() -> dict[str, Any]:
    """GET /v2."""
    return {"name": "roadworthy", "version": __version__, "extensions": ["binary_tensor_data"]}


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
                "version": f"{variant.model}:{variant.number}",
                "digest": variant.version.digest,
                "runtime": variant.version.runtime,
                "weight": share.weight,
            }
            for variant, share in zip(served.split.variants, served.entry.split, strict=True)
        ],
        "inputs": document["inputs"],
        "outputs": document["outputs"],
    }


def metadata(served: Endpoint, datatypes: Mapping[str, str], variant: Variant | None = None) -> dict[str, Any]:
    """GET /v2/models/{endpoint}[/versions/{number}]. `datatypes`: those of the inputs, by name."""
    variants = served.split.variants if variant is None else (variant,)
    return {
        "name": served.name,
        "versions": [str(each.number) for each in variants],
        "platform": f"roadworthy_{variants[0].version.runtime}",
        "inputs": [{**_tensor(field), "datatype": datatypes[field.name]} for field in served.signature.inputs],
        "outputs": [_tensor(field) for field in served.signature.outputs],
    }


def ready(served: Endpoint, *, ready: bool) -> dict[str, Any]:
    """GET /v2/models/{endpoint}/ready."""
    return {"name": served.name, "ready": ready}


def _tensor(field: Field) -> dict[str, Any]:
    return {"name": field.name, "datatype": field.dtype.open_inference, "shape": [-1, *field.shape]}
