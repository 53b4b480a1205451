"""What a deployment may say about policies: merged into those that the endpoint has, and every fault named with its path at once.

`endpoints.py` calls `merged` and `check`. The settings themselves are `contract/policy.py`, explained in docs/policies.md.
"""

from __future__ import annotations

import json
import types
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
from sqlalchemy import Connection

from roadworthy.contract.policy import FALLBACKS, INTEGER_UNITS, PLACES, Fallback, Policy
from roadworthy.control.context import ControlContext
from roadworthy.foundation.errors import InvalidInput, InvalidRequest, NotFound
from roadworthy.foundation.references import VersionReference
from roadworthy.package.manifest import MANIFEST, read_manifest
from roadworthy.registry import versions
from roadworthy.registry.versions import Version
from roadworthy.schema.batch import Layout
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Signature
from roadworthy.store.blobs import package_blob

_DAY_S = 86_400
RANGES: Mapping[str, tuple[float, float]] = {
    "max_body_bytes": (1, 1 << 40),
    "max_rows": (1, 10**9),
    "timeout_ms": (1, 1_000 * _DAY_S),
    "max_in_flight": (1, 10**6),
    "batching.max_rows": (1, 10**6),
    "batching.max_wait_ms": (0, 60_000),
    "placement.copies": (1, 256),
    "placement.threads": (1, 1_024),
    "placement.memory_mb": (1, 1 << 24),
    "placement.hang_s": (0.1, _DAY_S),
    "cache.ttl_s": (0.001, 366 * _DAY_S),
    "cache.max_entries": (1, 10**7),
    "cache.max_bytes": (1, 1 << 40),
    "breaker.window_s": (1, 3_600),
    "breaker.min_requests": (1, 10**9),
    "breaker.failure_rate": (0.001, 1),
    "breaker.slow_ms": (0.001, 1_000 * _DAY_S),
    "breaker.slow_rate": (0.001, 1),
    "breaker.open_s": (0.1, _DAY_S),
    "breaker.probes": (1, 1_000),
    "fallback[].max_age_s": (0, 366 * _DAY_S),
}
"""The smallest and the largest value of each number, by path."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "extra": ("refuse", "ignore"),
    "placement.where": PLACES,
    "timestamps.integers": INTEGER_UNITS,
    "fallback[].kind": FALLBACKS,
}
MOST_FALLBACKS = 8
_OF_KIND = {"version": "version", "rule": "rule", "cached": "max_age_s", "static": "value"}
"""What each kind of fallback says besides its kind."""
_MOST_TOLD = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: where, what, and the names that would have been right where that is the fault."""

    path: str
    problem: str
    known: tuple[str, ...] = ()


def merged(before: Mapping[str, Any] | None, asked: Mapping[str, Any] | None) -> dict[str, Any]:
    """The endpoint's policies after a deployment: what is asked over what it has, group by group, over the defaults.

    A group set to null is off, or back to its defaults; a list of fallbacks takes the place of the one before.

    Raises:
        InvalidRequest: "unknown-policy" when all that is wrong are names, else "invalid-policy"; facts["problems"] has all.
    """
    problems: list[Problem] = []
    after = _merge(Policy, before or {}, asked or {}, "", problems)
    _raise(problems)
    try:
        whole = msgspec.json.encode(msgspec.convert(after, Policy))
    except msgspec.ValidationError as error:  # what an older release has stored
        raise InvalidRequest(f"the policy is not valid: {error}", code="invalid-policy") from error
    return dict(msgspec.json.decode(whole))  # as it will stand in the store


def check(
    context: ControlContext, connection: Connection, document: Mapping[str, Any], version: Version, signature: Any
) -> None:
    """Whether the fallbacks can be taken for this version under this signature.

    Raises:
        InvalidRequest: as `merged`.
    """
    policy = msgspec.convert(document, Policy)
    problems: list[Problem] = []
    promised = Signature.from_document(signature)
    for number, step in enumerate(policy.fallback):
        path = f"fallback[{number}]"
        if step.kind == "static":
            problems += _static(path, step, promised)
        elif step.kind == "version" and step.version is not None:
            problems += _version(connection, path, step.version, promised)
        elif step.kind == "rule":
            problems += _rule(context, path, step, version)
    _raise(problems)


def _merge(
    kind: type[msgspec.Struct], before: Mapping[str, Any], asked: Mapping[str, Any], path: str, problems: list[Problem]
) -> dict[str, Any]:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    after = {name: value for name, value in before.items() if name in fields}
    for name, value in asked.items():
        place = f"{path}{name}"
        if name not in fields:
            problems.append(Problem(place, "there is no such setting", tuple(sorted(fields))))
            continue
        group = _group(fields[name].type)
        if name == "fallback":
            after[name] = _fallbacks(value, problems)
        elif group is None:
            after[name] = value
            problems += _leaf(place, fields[name].type, value)
        elif isinstance(value, Mapping):
            after[name] = _merge(group, before.get(name) or {}, value, f"{place}.", problems)
        elif value is None:
            after.pop(name, None)  # off, or as it is by default
        else:
            problems.append(Problem(place, f"expected an object with some of {', '.join(_names(group))}"))
    return after


def _group(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that a field holds, or may hold."""
    for option in get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None


def _fallbacks(value: object, problems: list[Problem]) -> list[dict[str, Any]]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MOST_FALLBACKS:
        problems.append(Problem("fallback", f"expected a list of at most {MOST_FALLBACKS} objects"))
        return []
    after = []
    for number, item in enumerate(value):
        path = f"fallback[{number}]"
        if not isinstance(item, Mapping):
            problems.append(Problem(path, f"expected an object with some of {', '.join(_names(Fallback))}"))
            continue
        after.append(_merge(Fallback, {}, item, f"{path}.", problems))
        problems += _of_kind(path, item)
    return after


def _of_kind(path: str, item: Mapping[str, Any]) -> Iterator[Problem]:
    kind = item.get("kind")
    if kind is None:
        yield Problem(f"{path}.kind", "is missing", FALLBACKS)
    if not isinstance(kind, str) or kind not in _OF_KIND:
        return
    defaults = {field.name: field.default for field in msgspec.structs.fields(Fallback)}
    for name in defaults.keys() & item.keys() - {"kind", "digest", _OF_KIND[kind]}:
        if item[name] != defaults[name]:
            yield Problem(f"{path}.{name}", f"says nothing to a fallback of the kind {kind}")
    if item.get("digest") is not None:
        yield Problem(f"{path}.digest", "is found by the control plane; name a version")
    if kind in ("rule", "static") and item.get(_OF_KIND[kind]) is None:
        yield Problem(f"{path}.{_OF_KIND[kind]}", "is missing")


def _leaf(path: str, kind: Any, value: object) -> Iterator[Problem]:
    general = path if not path.startswith("fallback[") else "fallback[]" + path[path.index("]") + 1 :]
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        yield Problem(path, str(error).replace("`", "").replace("Expected", "expected"), CHOICES.get(general, ()))
        return
    if general in CHOICES and value is not None and value not in CHOICES[general]:
        yield Problem(path, "is none of those that there are", CHOICES[general])
    if general in RANGES and isinstance(value, int | float):
        least, most = RANGES[general]
        if not least <= value <= most:
            yield Problem(path, f"must be from {_plain(least)} to {_plain(most)}")


def _static(path: str, step: Fallback, signature: Signature) -> Iterator[Problem]:
    try:
        decode_rows(Layout(signature.outputs), [step.value])
    except InvalidInput as error:
        yield Problem(f"{path}.value", f"does not fit the endpoint's outputs: {error.message}")


def _version(connection: Connection, path: str, text: str, signature: Signature) -> Iterator[Problem]:
    try:
        found = versions.get(connection, VersionReference.parse(text))
    except (InvalidRequest, NotFound) as error:
        yield Problem(f"{path}.version", error.message)
        return
    difference = Signature.from_document(found.signature).accepts(signature)
    if difference is not None:
        yield Problem(f"{path}.version", f"{text} does not fit the endpoint's signature: {difference}")


def _rule(context: ControlContext, path: str, step: Fallback, version: Version) -> Iterator[Problem]:
    with context.blobs.open(package_blob(version.digest)) as handle, zipfile.ZipFile(handle) as archive:
        known = tuple(rule.name for rule in read_manifest(archive.read(MANIFEST)).rules)
    if step.rule not in known:
        yield Problem(f"{path}.rule", f"{version.reference} has no rule of that name", known)
    elif version.allowed_by is None:
        yield Problem(f"{path}.rule", f"{version.reference} may not execute code; push it again with --allow-code")


def _raise(problems: Sequence[Problem]) -> None:
    if not problems:
        return
    told = "; ".join(f"{each.path[:100]}: {each.problem}" for each in problems[:_MOST_TOLD])
    more = f" (and {len(problems) - _MOST_TOLD} more)" if len(problems) > _MOST_TOLD else ""
    known = next((each.known for each in problems if each.known), ())
    facts: dict[str, Any] = {"problems": [msgspec.to_builtins(each) for each in problems]}
    if known:
        facts["known"] = list(known)
    hint = f"known are {', '.join(known)}" if known else "docs/policies.md has every setting with its unit and bounds"
    if all(each.problem == "there is no such setting" for each in problems):
        raise InvalidRequest(f"unknown policy: {told}{more}", code="unknown-policy", hint=hint, facts=facts)
    raise InvalidRequest(f"the policy is not valid: {told}{more}", code="invalid-policy", hint=hint, facts=facts)


def _names(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)]


def _plain(number: float) -> str:
    return json.dumps(int(number) if float(number).is_integer() else number)
