"""Puts the layers of a policy around a version, once, when an endpoint is bound. The `repr` of the result shows the order.

fallback → cache → breaker → version, and layers of plug-ins where their `order` puts them. Without any layer the endpoint submits
to the version itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from roadworthy.contract.layers import OWN_LAYERS, misfits, read_layers
from roadworthy.contract.policy import CachePolicy, Policy
from roadworthy.foundation.documents import Reader, listed, plain
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.foundation.plugins import LAYERS, plugins, provider
from roadworthy.runtime.layers.fallback import CACHED
from roadworthy.runtime.layers.layer import Fence, Layer, LayerContext, Taken
from roadworthy.runtime.pending import Submitter
from roadworthy.schema.signature import Signature


class LayerRefused(Exception):
    """A layer that the policy asks for cannot be put around the version here; the text says which, and why."""


def layered(below: Submitter, policy: Policy, context: LayerContext) -> Submitter:
    """Put the layers of a policy around a version; returns what the endpoint submits to. Call it on the event loop.

    Raises:
        LayerRefused: a layer of a plug-in is not loaded, does not take its parameters, or failed.
        InvalidInput: the value of a fallback does not fit the outputs.
    """
    asked = _asked(policy, context.signature)
    if not asked:
        return below
    known: Mapping[str, Layer] = plugins(LAYERS)
    top = below
    for name in sorted(asked, key=partial(_place, known)):
        layer = known[name]
        if name in OWN_LAYERS:
            top = context.inner[name] = layer.wrap(top, asked[name], context)
        else:
            context.inner[name] = _wrapped(layer, Fence(top, name), asked[name], context)
            top = Taken(context.inner[name], name)
            context.changing.append(_mark(layer, asked[name]))
    return top


def only_plugins(policy: Policy) -> Policy:
    """The policy without our own layers."""
    return msgspec.structs.replace(policy, cache=None, breaker=None, fallback=())


def inside_fallback(policy: Policy) -> Policy:
    """The policy with only those layers of plug-ins that are further in than fallbacks. Unknown ones stay, to be refused."""
    inner = {}
    if policy.layers:
        known: Mapping[str, Layer] = plugins(LAYERS)
        edge = _place(known, "fallback")
        inner = {name: each for name, each in policy.layers.items() if name not in known or _place(known, name) < edge}
    return msgspec.structs.replace(only_plugins(policy), layers=inner)


def _place(known: Mapping[str, Layer], name: str) -> tuple[int, str]:
    """Sorts layers from the inside to the outside."""
    return -known[name].order, name


def _asked(policy: Policy, signature: Signature) -> dict[str, Any]:
    """The parameters of the layers that the policy asks for, by name."""
    own = {name: getattr(policy, name) for name in OWN_LAYERS}
    if policy.cache is None and any(fallback.kind == CACHED for fallback in policy.fallback):
        own["cache"] = CachePolicy(ttl_s=0.0)
    asked = {name: parameters for name, parameters in own.items() if parameters}
    if policy.layers:
        asked |= _of_plugins(policy, signature)
    return asked


def _of_plugins(policy: Policy, signature: Signature) -> dict[str, Any]:
    reader = Reader()
    try:
        found = read_layers(reader, policy.layers)
    except InvalidRequest as error:
        raise LayerRefused(error.message) from error
    faults = [*reader.faults, *misfits(found, signature)]
    if faults:
        raise LayerRefused(listed(faults))
    return found


def _mark(layer: Layer, parameters: Any) -> bytes:
    """What the answers of a layer depend on: equal in all processes that have the same version of its plug-in."""
    return msgspec.json.encode([layer.name, provider(LAYERS, layer.name), plain(parameters)], order="sorted")


def _wrapped(layer: Layer, below: Submitter, parameters: Any, context: LayerContext) -> Submitter:
    try:
        return layer.wrap(below, parameters, context)
    except Exception as error:  # another distribution's code may raise anything
        raise LayerRefused(f"layer {layer.name} failed: {type(error).__name__}: {error}"[:500]) from error
