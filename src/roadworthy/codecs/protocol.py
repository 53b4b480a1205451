"""The interface of wire protocols: their paths, bodies and forms of errors. A codec reads a body on a path that it does not know;
a protocol has the paths.

Each protocol is one object that an entry point of the group `roadworthy.protocols` names; ours too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

from roadworthy.codecs.codec import Chooser
from roadworthy.codecs.openapi import Described, Fragment
from roadworthy.contract.policy import Policy
from roadworthy.foundation.plugins import PROTOCOLS, plugins
from roadworthy.schema.signature import Signature

_P = ParamSpec("_P")
_T = TypeVar("_T")
_ORDER = ("predict", "open-inference", "mlflow")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What a protocol's own documents may say of the gateway.

    Attributes:
        ready: whether every endpoint can answer. version: of Roadworthy.
    """

    ready: bool
    version: str


@dataclass(frozen=True, slots=True)
class Page:
    """A document of a protocol about the gateway itself, such as MLflow's /ping.

    Attributes:
        path: raw, without a query.
        open: whether it needs no key; then it must tell nothing but whether the gateway is ready.
        answer: status, content type and body.
    """

    path: str
    open: bool
    answer: Callable[[GatewayState], tuple[int, bytes, bytes]]


class WireProtocol(Protocol):
    """A protocol of predictions, named by an entry point of the group `roadworthy.protocols`."""

    @property
    def name(self) -> str:
        """The name of its entry point."""
        ...

    @property
    def interface(self) -> int:
        """The version of this interface that it was written for: 1."""
        ...

    @property
    def streams(self) -> bool:
        """Whether it can send an answer in parts while the model still runs: what reads its bodies `streams`."""
        ...

    @property
    def pages(self) -> Sequence[Page]:
        """Its documents about the gateway."""
        ...

    def paths(self, endpoint: str, version: int | None, *, only: bool) -> Sequence[str]:
        """The paths of an endpoint's predictions.

        Args:
            endpoint: its name.
            version: the paths that ask this registry version; None: those that leave the choice to the split.
            only: the gateway has no other endpoint, or this is its default one, so a path may leave the name out.
        """
        ...

    def bind(self, endpoint: str, signature: Signature, policy: Policy, *, on_loop: bool = False) -> Chooser:
        """The protocol for one endpoint. `on_loop`: bodies are read on the event loop, which long reading would hold."""
        ...

    def error_keys(self, status: int, message: str) -> Mapping[str, Any]:
        """Keys that its clients read in an error, besides those of every error: `error`, `code`, `hint`, `request_id`."""
        ...

    def openapi(self, about: Described) -> Mapping[str, Fragment]:
        """OpenAPI path items of its predictions."""
        ...


def protocols() -> Mapping[str, WireProtocol]:
    """Every protocol by name. Of two with one path, the first has it: ours before those of plug-ins."""
    found = plugins(PROTOCOLS)
    return {name: found[name] for name in sorted(found, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))}


def guarded(protocol: WireProtocol, member: Callable[_P, _T], otherwise: _T) -> Callable[_P, _T]:
    """A member of a protocol. Where that of a plug-in raises, it returns `otherwise` and the log says why: one plug-in must not
    keep an endpoint from serving in the other protocols."""
    if type(protocol).__module__.startswith("roadworthy."):
        return member

    @wraps(member)
    def call(*arguments: _P.args, **options: _P.kwargs) -> _T:
        try:
            return member(*arguments, **options)
        except Exception as error:  # noqa: BLE001 - a plug-in of another distribution may raise anything
            _log.error("protocol %s: %s: %s: %s", protocol.name, member.__name__, type(error).__name__, error)
            return otherwise

    return call


def paths_of(protocol: WireProtocol, endpoint: str, version: int | None, *, only: bool) -> list[bytes]:
    """The raw paths of an endpoint's predictions; see `WireProtocol.paths`."""

    def paths() -> list[bytes]:
        return [path.encode("ascii") for path in protocol.paths(endpoint, version, only=only)]

    return guarded(protocol, paths, [])()


def pages_of(protocol: WireProtocol) -> dict[bytes, Page]:
    """The pages by raw path."""

    def pages() -> dict[bytes, Page]:
        return {page.path.encode("ascii"): page for page in protocol.pages}

    return guarded(protocol, pages, {})()


def bind_protocols(name: str, signature: Signature, policy: Policy) -> dict[str, Chooser]:
    """The protocols of an endpoint, for the event loop: a body that would hold it for too long raises NeedsReader."""
    bound = {}
    for protocol in protocols().values():
        bind: Callable[..., Chooser | None] = protocol.bind
        chooser = guarded(protocol, bind, None)(name, signature, policy, on_loop=True)
        if chooser is not None:
            bound[protocol.name] = chooser
    return bound
