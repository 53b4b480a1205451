"""The policies of a deployment, merged into those of the endpoint; all faults are reported at once, each with its path.

Types, bounds and choices are declared in `contract/policy.py`; docs/policies.md explains them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from roadworthy.contract.layers import misfits, plugin_layers, read_layers
from roadworthy.contract.policy import Fallback, Policy
from roadworthy.contract.runners import AUTO, RUNNER_HINT, every_gateway_has
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.control.context import ControlContext
from roadworthy.foundation.documents import Fault, Reader, invalid_request, plain
from roadworthy.foundation.errors import InvalidInput, InvalidRequest, NotFound
from roadworthy.foundation.references import VersionReference
from roadworthy.monitoring.gateways import Gateway
from roadworthy.package.manifest import MANIFEST, read_manifest
from roadworthy.registry import versions
from roadworthy.registry.versions import Version
from roadworthy.schema.batch import Layout
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Signature
from roadworthy.store.blobs import package_blob
from roadworthy.store.connection import Connection

_OF_KIND = {"version": "version", "rule": "rule", "cached": "max_age_s", "static": "value"}
"""The one field that each kind of fallback takes."""
LAYER_HINT = (
    "install the plug-in on the gateway's machine, name its distribution in general.plugins there, and start the gateway again; "
    "a gateway of a release without layers of plug-ins answers without the layer"
)
_NEVER_OFF = {field.name for field in msgspec.structs.fields(Policy) if isinstance(field.default, msgspec.Struct)}


def merged(before: Mapping[str, Any] | None, asked: Mapping[str, Any] | None) -> dict[str, Any]:
    """The endpoint's policies after a deployment: `asked` over `before`, group by group, over the defaults.

    A group set to null is switched off, or back to its defaults; a list of fallbacks replaces the previous one. So is a layer of
    a plug-in, or all of them.

    Raises:
        InvalidRequest: "unknown-policy" when the only faults are unknown names, else "invalid-policy"; facts["problems"] has all.
            "unknown-layer": this process has not loaded a layer that was asked for.
    """
    after, asked = _kept(Policy, before or {}), dict(asked or {})
    layers = asked.pop("layers", {})
    reset = {name for name in _NEVER_OFF if name in asked and asked[name] is None}
    reader = Reader()
    given = reader.table(Policy, {name: value for name, value in asked.items() if name not in reset})
    if "fallback" in given:
        reader.faults += (fault for number, step in enumerate(asked["fallback"]) for fault in _of_kind(number, step))
    after["layers"] = _layers(reader, after.get("layers") or {}, layers)
    _raise(reader.faults)
    for name, value in given.items():
        after[name] = {**(after.get(name) or {}), **value} if isinstance(value, dict) else value
    try:
        policy = msgspec.convert({name: after[name] for name in after if name not in reset}, Policy)
    except msgspec.ValidationError as error:  # stored by an older release
        raise InvalidRequest(f"the policy is not valid: {error}", code="invalid-policy") from error
    return dict(msgspec.json.decode(msgspec.json.encode(policy)))  # as the store will hold it


def _layers(reader: Reader, before: Mapping[str, Any], asked: object) -> dict[str, Any]:
    """The layers of plug-ins after a deployment, each with all its parameters. Those that are not asked for stay as they are."""
    if not isinstance(asked, Mapping | None):
        reader.fault("layers", "expected an object with the parameters of each layer")
        return {}
    if asked is None:
        return {}
    changed = {
        str(name): {**before.get(name, {}), **given} if isinstance(given, Mapping) else given
        for name, given in asked.items()
        if given is not None
    }
    read = {name: plain(parameters) for name, parameters in read_layers(reader, changed).items()}
    return {name: given for name, given in {**before, **read}.items() if name not in asked or name in changed}


def _kept(kind: type[msgspec.Struct], stored: Mapping[str, Any]) -> dict[str, Any]:
    """What this release knows of a stored policy: another release may have had further fields."""
    kept = {}
    for field in msgspec.structs.fields(kind):
        if field.name in stored:
            value, group = stored[field.name], _group(field.type)
            kept[field.name] = _kept(group, value) if group is not None and isinstance(value, Mapping) else value
    return kept


def _group(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that a field holds, or may hold."""
    if isinstance(kind, type):
        return kind if issubclass(kind, msgspec.Struct) else None
    return next(filter(None, map(_group, get_args(kind))), None)


def check(context: ControlContext, connection: Connection, document: Mapping[str, Any], version: Version, signature: Any) -> None:
    """Check that the fallbacks fit this version and this signature.

    Raises:
        InvalidRequest: as `merged`.
    """
    policy = msgspec.convert(document, Policy)
    faults: list[Fault] = []
    promised = Signature.from_document(signature)
    for number, step in enumerate(policy.fallback):
        path = f"fallback[{number}]"
        if step.kind == "static":
            faults += _static(path, step, promised)
        elif step.kind == "version" and step.version is not None:
            faults += _version(connection, path, step.version, promised)
        elif step.kind == "rule":
            faults += _rule(context, path, step, version)
    if policy.layers:
        reader, here = Reader(), plugin_layers()
        own = read_layers(reader, {name: given for name, given in policy.layers.items() if name in here})
        faults += [*reader.faults, *misfits(own, promised)]
    _raise(faults)


def _of_kind(number: int, step: object) -> Iterator[Fault]:
    """Faults in how the fields of one fallback fit its kind."""
    kind = step.get("kind") if isinstance(step, Mapping) else None
    if not isinstance(step, Mapping) or not isinstance(kind, str) or kind not in _OF_KIND:
        return
    path = f"fallback[{number}]"
    for field in msgspec.structs.fields(Fallback):
        own = field.name in ("kind", "digest", _OF_KIND[kind])
        if not own and step.get(field.name, field.default) != field.default:
            yield Fault(f"{path}.{field.name}", f"a fallback of kind {kind} does not take it")
    if step.get("digest") is not None:
        yield Fault(f"{path}.digest", "is found by the control plane; give a version instead")
    if kind in ("rule", "static") and step.get(_OF_KIND[kind]) is None:
        yield Fault(f"{path}.{_OF_KIND[kind]}", "is missing")


def _static(path: str, step: Fallback, signature: Signature) -> Iterator[Fault]:
    try:
        decode_rows(Layout(signature.outputs), [step.value])
    except InvalidInput as error:
        yield Fault(f"{path}.value", f"does not fit the endpoint's outputs: {error.message}")


def _version(connection: Connection, path: str, text: str, signature: Signature) -> Iterator[Fault]:
    try:
        found = versions.get(connection, VersionReference.parse(text))
    except (InvalidRequest, NotFound) as error:
        yield Fault(f"{path}.version", error.message)
        return
    difference = Signature.from_document(found.signature).accepts(signature)
    if difference is not None:
        yield Fault(f"{path}.version", f"{text} does not fit the endpoint's signature: {difference}")


def _rule(context: ControlContext, path: str, step: Fallback, version: Version) -> Iterator[Fault]:
    with context.blobs.open(package_blob(version.digest)) as handle, zipfile.ZipFile(handle) as archive:
        known = tuple(rule.name for rule in read_manifest(archive.read(MANIFEST)).rules)
    if step.rule not in known:
        has = f"it has {', '.join(known)}" if known else "it has none"
        yield Fault(f"{path}.rule", f"{version.reference} has no rule of that name; {has}", known)
    elif version.allowed_by is None:
        yield Fault(f"{path}.rule", f"{version.reference} may not execute code; push it again with --allow-code")


@dataclass(frozen=True, slots=True)
class Needed:
    """One kind of plug-in that a policy may need on every gateway.

    Attributes:
        noun: what it is. code: of the error and the alert where a gateway has not loaded it. hint: of both.
        named: the names in a policy.
        loaded: the names that a worker reports. Releases without such plug-ins report none.
    """

    noun: str
    code: str
    hint: str
    named: Callable[[Mapping[str, Any]], Collection[str]]
    loaded: Callable[[WorkerReport], Collection[str]]

    def lacking(self, names: Collection[str], live: Sequence[Gateway]) -> dict[str, list[str]]:
        """For each of these names, the gateways of which a worker has not loaded it."""
        found = {
            name: [each.id for each in live if any(name not in self.loaded(worker) for worker in each.workers)] for name in names
        }
        return {name: lacking for name, lacking in found.items() if lacking}


def _runners(policy: Mapping[str, Any]) -> Collection[str]:
    where = (policy.get("placement") or {}).get("where", AUTO)
    return () if every_gateway_has(where) else (where,)


LAYERS = Needed("layer", "layer-missing", LAYER_HINT, lambda policy: policy.get("layers") or {}, lambda worker: worker.layers)
RUNNERS = Needed("runner", "runner-missing", RUNNER_HINT, _runners, lambda worker: worker.runners)
NEEDED = (LAYERS, RUNNERS)


def _raise(faults: Sequence[Fault]) -> None:
    if not faults:
        return
    what, code = "the policy is not valid", "invalid-policy"
    if all(fault.unknown for fault in faults):
        what, code = "unknown policy", "unknown-policy"
    error = invalid_request(what, faults, code=code, hint="docs/policies.md has every setting with its unit and bounds")
    known = next((fault.known for fault in faults if fault.known), ())
    if known:
        error.facts["known"] = list(known)
    raise error
