"""Layers of plug-ins in a policy: which there are, and their parameters.

A policy names them in its member `layers`, by name. The control plane checks the parameters when a policy is set, and a gateway
reads them when it binds an endpoint. Neither leaves out a layer that it does not have. Our own layers have members of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from roadworthy.foundation.documents import INVALID, Fault, Reader
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.foundation.plugins import LAYERS, foreign
from roadworthy.schema.signature import Signature

OWN_LAYERS = ("fallback", "cache", "breaker")
"""Our own layers. Each has the member of its name in the policy."""


class LayerDeclaration(Protocol):
    """What a policy needs to know of a layer. `runtime/layers/layer.py` has the rest of the interface.

    A layer may also have `check(parameters, signature)`, which raises ValueError where the parameters do not fit the endpoint.
    """

    @property
    def name(self) -> str:
        """The name of its entry point, and its key in a policy's `layers`."""
        ...

    @property
    def interface(self) -> int:
        """The version of this interface that it was written for: 1."""
        ...

    @property
    def order(self) -> int:
        """Its place: a layer with a smaller number is further out. Ours: fallback 100, cache 200, breaker 300."""
        ...

    @property
    def parameters(self) -> type[Any]:
        """A dataclass whose fields are the parameters, declared for `foundation/documents.py`."""
        ...


def plugin_layers() -> Mapping[str, LayerDeclaration]:
    """The layers of plug-ins by name. Imports nothing where the settings name no plug-in."""
    return foreign(LAYERS)


def read_layers(reader: Reader, layers: Mapping[str, Any]) -> dict[str, Any]:
    """The valid parameters of these layers by name. Invalid ones become faults, with paths such as `layers.round.digits`.

    Raises:
        InvalidRequest: "unknown-layer": this process has not loaded one of them.
    """
    known = plugin_layers()
    missing = [name for name in layers if name not in known]
    if missing:
        raise InvalidRequest(
            f"no such layer is loaded here: {', '.join(name[:60] for name in missing[:8])}",
            code="unknown-layer",
            hint="install the plug-in here and name its distribution in general.plugins; `roadworthy plugin list` shows "
            "what was loaded, and why not",
            facts={"known": list(known)},
        )
    found = {name: reader.value(known[name].parameters, given, f"layers.{name}") for name, given in layers.items()}
    return {name: parameters for name, parameters in found.items() if parameters is not INVALID}


def misfits(parameters: Mapping[str, Any], signature: Signature) -> list[Fault]:
    """The layers whose parameters do not fit an endpoint with this signature, by their own checks. None fits a signature of
    answers in parts: a layer would see the first part only."""
    if signature.parts:
        return [Fault(f"layers.{name}", "a layer of a plug-in cannot treat answers in parts") for name in parameters]
    faults = []
    for name, each in parameters.items():
        check = getattr(plugin_layers()[name], "check", None)
        try:
            if check is not None:
                check(each, signature)
        except Exception as error:  # noqa: BLE001 - ValueError is the rule, but another distribution's code may raise anything
            faults.append(Fault(f"layers.{name}", str(error) or type(error).__name__))
    return faults
