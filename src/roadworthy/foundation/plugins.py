"""Plug-ins: objects that installed distributions add to Roadworthy by entry points. Ours come the same way.

Plug-ins execute in processes that hold keys. A process therefore imports only the entry points of our own distribution and of
the distributions that it was allowed. The setting `general.plugins` names them. The command line reads it and hands it on in the
start document of each process. Only those distributions are looked up, so a process does not search through all that is
installed; `survey` does, and imports nothing more.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from roadworthy.foundation.errors import RoadworthyError

if TYPE_CHECKING:
    from importlib.metadata import (
        Distribution,
        EntryPoint,
    )  # its import takes as long as half of ours; see `_distribution`

OWN = "roadworthy"
"""The distribution whose entry points are always loaded."""

LOADED, NOT_NAMED, NOT_INSTALLED = "loaded", "not-named", "not-installed"
FAILED, NAME_TAKEN, WRONG_INTERFACE, UNKNOWN_KIND = "import-failed", "name-taken", "wrong-interface", "unknown-kind"

MEMBER = "plugins"
"""The member of a start document that names the allowed distributions. `read_start_message` takes it out."""

MOST_NAME = 64
"""Characters of the name of a layer or a runner, as in `WorkerReport`."""

_MEDIA_TYPE = re.compile(rb"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_PLACES = ("auto", "isolated")  # what placement understands besides the names of runners
_SIGNAL = re.compile(r"(?!drawn$)[a-z][a-z0-9_]{0,62}")  # all first attempts are counted as "drawn"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of plug-in.

    Attributes:
        name: the entry-point group is "roadworthy." and this name.
        interface: version of the interface. A plug-in states the one it was written for as its attribute `interface`.
        members: attributes that every plug-in of this kind has.
        claims: what no two plug-ins of this kind may share; raises ValueError for claims of the wrong form.
    """

    name: str
    interface: int
    members: tuple[str, ...]
    claims: Callable[[Any], Iterable[object]] = lambda _plugin: ()

    @property
    def group(self) -> str:
        """The entry-point group."""
        return f"{OWN}.{self.name}"


def _suffixes(framework: Any) -> Iterable[object]:
    suffixes = getattr(framework, "suffixes", ())
    if not isinstance(suffixes, tuple) or not all(isinstance(each, str) and each.startswith(".") for each in suffixes):
        raise ValueError(f"suffixes must be a tuple of texts such as '.onnx', not {suffixes!r:.60}")
    return suffixes


def _media_types(codec: Any) -> Iterable[object]:
    """Also those of its answers: a caller's Accept must name one codec."""
    forms = () if codec.form is None else (codec.form,)
    media = (*codec.media_types, *(form.media_type for form in forms))
    if not isinstance(codec.media_types, tuple) or not all(
        isinstance(each, bytes) and _MEDIA_TYPE.fullmatch(each) for each in media
    ):
        raise ValueError(f"media types must be a tuple of lower-case bytes such as b'text/csv', not {media!r:.60}")
    return (*media, *(("form", form.name) for form in forms))


def _check_signal(signal: Any) -> Iterable[object]:
    """Nothing more than the name, which is part of plans, cells and keys. The signal's class knows what else it needs."""
    if not hasattr(signal, "check_itself"):
        raise ValueError("it derives from no class of roadworthy.signals.signal")
    signal.check_itself()
    if not _SIGNAL.fullmatch(signal.name):
        raise ValueError(f"a signal's name has lower-case letters, digits and underscores, 63 at most, not {signal.name!r:.80}")
    return ()


def _check_layer(layer: Any) -> Iterable[object]:
    """A layer claims nothing besides its name, which is a key of policies and goes over the wire."""
    if len(layer.name) > MOST_NAME or not _NAME.fullmatch(layer.name):
        raise ValueError(f"a layer's name is like my-layer, {MOST_NAME} characters at most, not {layer.name!r:.80}")
    if not isinstance(layer.order, int) or not isinstance(layer.parameters, type):
        raise TypeError("a layer's order must be a whole number, its parameters a class")
    return ()


def _check_runner(runner: Any) -> Iterable[object]:
    """A runner claims nothing besides its name, which is a value of policies and goes over the wire. The agent confines the
    processes that it keeps, and nothing else, so a runner isolates exactly when it has such processes."""
    if len(runner.name) > MOST_NAME or not _NAME.fullmatch(runner.name) or runner.name in _PLACES:
        raise ValueError(f"a runner's name is like my-runner, {MOST_NAME} characters at most, not {runner.name!r:.80}")
    if not isinstance(runner.isolates, bool):
        raise TypeError(f"`isolates` must be True or False, not {runner.isolates!r:.60}")
    if runner.isolates != hasattr(runner, "processes"):
        has = "has no `processes` for the agent to keep" if runner.isolates else "has `processes`, which the agent isolates"
        raise ValueError(f"it declares isolates = {runner.isolates}, and {has}")
    return ()


FRAMEWORKS = Kind("frameworks", 1, ("name", "recognises", "answer", "categories", "save", "load"), _suffixes)
_CODEC = ("name", "media_types", "form", "limits", "streams", "openapi", "takes_views", "check_headers", "decode", "encode")
CODECS = Kind("codecs", 2, _CODEC, _media_types)
PROTOCOLS = Kind("protocols", 1, ("name", "streams", "pages", "paths", "bind", "error_keys", "openapi"))
BLOBS = Kind("blobs", 1, ("name", "open_store"))
SIGNALS = Kind("signals", 1, ("name", "kind", "event", "compares", "allowed"), _check_signal)
LAYERS = Kind("layers", 1, ("name", "order", "parameters", "wrap"), _check_layer)
RUNNERS = Kind("runners", 1, ("name", "isolates", "runner"), _check_runner)
KINDS = (FRAMEWORKS, CODECS, PROTOCOLS, BLOBS, SIGNALS, LAYERS, RUNNERS)


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point and what became of it.

    Attributes:
        kind, name: the group without "roadworthy.", and the entry point's name; "" for a distribution that is not installed.
        distribution, version: who provides it.
        state: LOADED, or why it was not loaded.
        reason: the state in words; "" when it was loaded.
    """

    kind: str
    name: str
    distribution: str
    version: str
    state: str
    reason: str = ""


_allowed: list[str] = []


def distribution_name(text: str) -> str:
    """The normalised name of a distribution: lower case, one hyphen for each run of `-`, `_` and `.`.

    Raises:
        ValueError: not a valid name.
    """
    name = re.sub(r"[-_.]+", "-", text.strip()).lower()
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text!r:.60} is not the name of a distribution; expected a name such as my-plugin")
    return name


def allow(distributions: Sequence[str]) -> None:
    """Let this process load the plug-ins of these distributions besides our own. Replaces what was allowed before.

    Raises:
        ValueError: one of them is not a valid name.
    """
    names = [name for name in dict.fromkeys(map(distribution_name, distributions)) if name != OWN]
    if names != _allowed:
        _allowed[:] = names
        plugins.cache_clear()
        _read.cache_clear()


def allowed() -> tuple[str, ...]:
    """The distributions that were allowed, in the order of the setting."""
    return tuple(_allowed)


def start_member() -> dict[str, list[str]]:
    """What a process adds to the start document of a child, so that the child may load the same plug-ins."""
    return {MEMBER: list(_allowed)} if _allowed else {}


@cache
def plugins(kind: Kind) -> Mapping[str, Any]:
    """The plug-ins of one kind by name: our own first, then those of the allowed distributions. One that cannot be used is left
    out, and the log says why.

    Raises:
        RoadworthyError: "installation-incomplete": our own entry points are missing.
    """
    found = {}
    for plugin, value in _read(kind):
        if plugin.state == LOADED:
            found[plugin.name] = value
        elif plugin.distribution == OWN:
            raise _incomplete(f"{kind.group}: {plugin.name}: {plugin.reason}")
        else:
            _log.error("plug-in %s %s of %s was not loaded: %s", kind.name, plugin.name, plugin.distribution, plugin.reason)
    if not found:
        raise _incomplete(f"no entry points in the group {kind.group}")
    return MappingProxyType(found)


def foreign(kind: Kind) -> Mapping[str, Any]:
    """The loaded plug-ins of one kind that other distributions provide, by name. Imports nothing where none is allowed."""
    if not _allowed:
        return {}
    found = plugins(kind)
    return {plugin.name: found[plugin.name] for plugin, _ in _read(kind) if plugin.state == LOADED and plugin.distribution != OWN}


def survey() -> list[Plugin]:
    """Every entry point of ours on this machine with its state. Imports those of our own and of the allowed distributions."""
    from importlib.metadata import distributions

    found = [plugin for kind in KINDS for plugin, _ in _read(kind)]
    groups = {kind.group for kind in KINDS}
    named = {OWN, *_allowed}
    installed = {OWN}
    for distribution in distributions():
        name = _name_of(distribution)
        installed.add(name)
        for entry in distribution.entry_points:
            if entry.group.startswith(f"{OWN}.") and (entry.group not in groups or name not in named):
                found.append(_unread(distribution, entry, known=entry.group in groups))  # noqa: PERF401 - two loops read better
    found += [
        Plugin("", "", name, "", NOT_INSTALLED, "general.plugins names it; install it here, or take it out of the setting")
        for name in _allowed
        if name not in installed
    ]
    return list(dict.fromkeys(found))


def missing_distributions(names: Sequence[str]) -> list[str]:
    """Those of the distributions that are not installed here."""
    return [name for name in names if _distribution(name) is None]


def provider(kind: Kind, name: str) -> str:
    """The distribution that provides a loaded plug-in, with its version, such as "my-plugin 1.2"; "" for none."""
    for plugin, _ in _read(kind):
        if plugin.name == name and plugin.state == LOADED:
            return f"{plugin.distribution} {plugin.version}"
    return ""


@cache
def _read(kind: Kind) -> tuple[tuple[Plugin, Any], ...]:
    """All entry points of one kind that this process may load, with the object of each that was loaded."""
    found: list[tuple[Plugin, Any]] = []
    taken: dict[object, str] = {}
    for distribution in filter(None, map(_distribution, (OWN, *_allowed))):
        provider = _name_of(distribution)
        for entry in sorted(distribution.entry_points.select(group=kind.group), key=lambda entry: entry.name):
            state, reason, value = _load(kind, entry, taken)
            if state == LOADED:
                taken.update(dict.fromkeys((entry.name, *kind.claims(value)), f"{entry.name} of {provider}"))
            found.append((Plugin(kind.name, entry.name, provider, distribution.version, state, reason), value))
    return tuple(found)


def _load(kind: Kind, entry: EntryPoint, taken: Mapping[object, str]) -> tuple[str, str, Any]:
    """State, reason and object of one entry point."""
    if entry.name in taken:
        return NAME_TAKEN, f"{taken[entry.name]} has this name already", None
    try:
        value = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - another distribution's module may raise anything while it is imported
        return FAILED, f"importing {entry.value} raised {type(error).__name__}: {error}"[:500], None
    try:
        state, reason = _fit(kind, entry.name, value)
        shared = [each for each in kind.claims(value) if each in taken] if state == LOADED else []
    except Exception as error:  # noqa: BLE001 - attributes of another distribution's object may be anything, and raise anything
        return WRONG_INTERFACE, f"{type(error).__name__}: {error}"[:500], None
    if shared:
        state, reason = NAME_TAKEN, f"{taken[shared[0]]} has {shared[0]!r} already"
    return state, reason, value


def _fit(kind: Kind, name: str, value: Any) -> tuple[str, str]:
    interface = getattr(value, "interface", None)
    if interface != kind.interface:
        stated = "states no interface" if interface is None else f"was written for interface {interface!r:.20}"
        return WRONG_INTERFACE, f"it {stated}; this release has interface {kind.interface} of {kind.name}"
    missing = [member for member in kind.members if not hasattr(value, member)]
    if missing:
        return WRONG_INTERFACE, f"it has no {', '.join(missing)}"
    if value.name != name:
        return WRONG_INTERFACE, f"it calls itself {value.name!r:.60}, and its entry point {name!r}"
    return LOADED, ""


def _unread(distribution: Distribution, entry: EntryPoint, *, known: bool) -> Plugin:
    """An entry point that is not imported."""
    name = _name_of(distribution)
    kind = entry.group.removeprefix(f"{OWN}.")
    if known:
        state, reason = NOT_NAMED, f'general.plugins does not name {name}; add "{name}" to load it'
    else:
        state, reason = UNKNOWN_KIND, f"this release has no plug-ins of the kind {kind}"
    return Plugin(kind, entry.name, name, distribution.version, state, reason)


def _distribution(name: str) -> Distribution | None:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _name_of(distribution: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()


def _incomplete(what: str) -> RoadworthyError:
    return RoadworthyError(
        f"this installation of Roadworthy is incomplete: {what}",
        code="installation-incomplete",
        hint="install Roadworthy again with pip, so that its entry points are written",
    )
