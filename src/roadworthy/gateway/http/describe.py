"""The JSON documents of the GET routes, about the gateway and its endpoints. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from roadworthy.codecs.streams import STREAM_FORMS
from roadworthy.schema.signature import Field
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.metrics import Bound, Totals
from roadworthy.serving.variant import Variant
from roadworthy.version import __version__


def server() -> dict[str, Any]:
    """GET /v2."""
    extensions = ["binary_tensor_data", "model_configuration", "statistics"]
    return {"name": "roadworthy", "version": __version__, "extensions": extensions}


def front() -> dict[str, Any]:
    """GET /: what this is and where to go. `status` is KServe V1's."""
    return {
        "status": "alive",
        "server": "Roadworthy gateway",
        "docs": "docs",
        "endpoints": "v1/models",
        "ready": "readyz",
    }


def names(endpoints: Sequence[str]) -> dict[str, Any]:
    """GET /v1/models and /v2/models."""
    return {"models": sorted(endpoints)}


def endpoint(served: Endpoint) -> dict[str, Any]:
    """GET /v1/models/{endpoint}. `accept`: the media types by which callers ask for an answer in parts."""
    document = served.signature.to_document()
    parts = served.signature.parts
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
        "parts": parts,
        **({"accept": [form.media_type.decode() for form in STREAM_FORMS]} if parts else {}),
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


def config(served: Endpoint, datatypes: Mapping[str, str]) -> dict[str, Any]:
    """GET /v2/models/{endpoint}[/versions/{number}]/config, in Triton's shape."""
    policy, variants = served.entry.policy, served.split.variants
    inputs = [(field, datatypes[field.name]) for field in served.signature.inputs]
    outputs = [(field, field.dtype.open_inference) for field in served.signature.outputs]
    return {
        "name": served.name,
        "platform": f"roadworthy_{variants[0].version.runtime}",
        "backend": "roadworthy",
        "version_policy": {"specific": {"versions": [variant.number for variant in variants]}},
        "max_batch_size": policy.max_rows,
        "input": [_configured(field, datatype) for field, datatype in inputs],
        "output": [_configured(field, datatype) for field, datatype in outputs],
        "dynamic_batching": {"max_queue_delay_microseconds": round(policy.batching.max_wait_ms * 1_000)},
    }


def _configured(field: Field, datatype: str) -> dict[str, Any]:
    kind = "STRING" if datatype == "BYTES" else datatype
    return {"name": field.name, "data_type": f"TYPE_{kind}", "dims": list(field.shape)}


def statistics(served: Sequence[tuple[Endpoint, Variant]], totals: Totals) -> dict[str, Any]:
    """GET /v2/models[/{endpoint}[/versions/{number}]]/stats, in Triton's shape, of all workers of this machine.

    Roadworthy does not time failures, the queue and the run separately: `success.ns` is the time of all requests, and the other
    times are 0. Runs are not counted: `execution_count` is the number of answered requests.
    """
    sums: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for (bound, outcome), count in totals.requests.items():
        sums[_series(bound)]["answered" if outcome == "ok" else "failed"] += count
    for bound, rows in totals.rows.items():
        sums[_series(bound)]["rows"] += rows
    for bound, cells in totals.latency.items():
        sums[_series(bound)]["us"] += cells[-1]
    return {"model_stats": [_statistics(endpoint.name, variant, sums) for endpoint, variant in served]}


def _series(bound: Bound) -> tuple[str, str, str]:
    """The labels without the generation."""
    return bound.endpoint, bound.version, bound.digest


def _statistics(name: str, variant: Variant, sums: Mapping[tuple[str, str, str], Counter[str]]) -> dict[str, Any]:
    mine = sums.get((name, f"{variant.model}:{variant.number}", variant.version.digest), Counter())
    none = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": str(variant.number),
        "last_inference": 0,
        "inference_count": mine["rows"],
        "execution_count": mine["answered"],
        "inference_stats": {
            "success": {"count": mine["answered"], "ns": mine["us"] * 1_000},
            "fail": {"count": mine["failed"], "ns": 0},
            **dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"), none),
        },
        "batch_stats": [],
    }


def index(served: Sequence[Endpoint], waiting: Sequence[str]) -> list[dict[str, str]]:
    """POST /v2/repository/index. An endpoint whose versions are still being loaded, or have failed, has no version here."""
    ready = [
        {"name": endpoint.name, "version": str(variant.number), "state": "READY", "reason": ""}
        for endpoint in served
        for variant in endpoint.split.variants
    ]
    reason = "its versions are not loaded here"
    return ready + [{"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason} for name in waiting]


def ready(served: Endpoint, *, ready: bool) -> dict[str, Any]:
    """GET /v2/models/{endpoint}/ready."""
    return {"name": served.name, "ready": ready}


def _tensor(field: Field) -> dict[str, Any]:
    return {"name": field.name, "datatype": field.dtype.open_inference, "shape": [-1, *field.shape]}
