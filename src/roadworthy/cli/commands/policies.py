"""Policies on the command line: `--policy` and `--set` of `deploy`, and `roadworthy describe`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from roadworthy.cli.commands.registry import pending_text
from roadworthy.cli.options import RemoteOptions, argument, command
from roadworthy.cli.output import answers_of, facts, show, table
from roadworthy.foundation.errors import InvalidRequest

if TYPE_CHECKING:
    from roadworthy.contract.api.endpoints import Endpoint


@dataclass(frozen=True, kw_only=True)
class DescribeOptions(RemoteOptions):
    """`describe`."""

    endpoint: str = argument("ENDPOINT", "The endpoint.")


def read_policy(file: Path | None, assignments: Sequence[str]) -> dict[str, Any] | None:
    """The policy document of a file and `NAME=VALUE` texts; the texts take precedence. None when both are empty.

    Args:
        file: `.toml` or `.json`.
        assignments: the name is a path such as `cache.ttl_s`; the value is JSON, or else plain text.

    Raises:
        InvalidRequest: "invalid-policy".
    """
    policy = {} if file is None else _read(file)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not all(name.split(".")):
            raise InvalidRequest(
                f"--set: expected NAME=VALUE, got {assignment[:80]!r}",
                code="invalid-policy",
                hint="write --set timeout_ms=500, or --set cache.ttl_s=30",
            )
        _put(policy, name.split("."), _value(text), assignment)
    return policy or None


def _read(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    try:
        document = json.loads(data) if file.suffix == ".json" else tomllib.loads(data.decode())
    except ValueError as error:  # from either parser, or for text that is not UTF-8
        raise InvalidRequest(
            f"{file.name} cannot be read: {error}",
            code="invalid-policy",
            hint="write a policy file in TOML, or in JSON with a name that ends in .json",
        ) from error
    if not isinstance(document, dict):
        raise InvalidRequest(f"{file.name}: expected a JSON object", code="invalid-policy", hint='write {"timeout_ms": 500}')
    return document


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(policy: dict[str, Any], path: Sequence[str], value: Any, assignment: str) -> None:
    *groups, name = path
    for group in groups:
        inner = policy.setdefault(group, {})
        if not isinstance(inner, dict):
            raise InvalidRequest(
                f"--set {assignment[:80]!r}: {group} is not an object",
                code="invalid-policy",
                hint="give a list as a whole, as JSON",
            )
        policy = inner
    policy[name] = value


def describe(options: DescribeOptions) -> None:
    """Show an endpoint's versions, pending change and policies."""
    with options.client() as client:
        endpoint = client.endpoint(options.endpoint)
    show(endpoint, description(endpoint), as_json=options.json)


def description(endpoint: Endpoint) -> str:
    """An endpoint as text."""
    head = facts(
        {
            "endpoint": endpoint.name,
            "state": endpoint.state,
            "version": endpoint.version,
            "digest": endpoint.digest,
            "previous": endpoint.previous,
            "pending": pending_text(endpoint.pending),
            "answers": answers_of(endpoint.signature),
            "generation": endpoint.generation,
            "changed": f"{endpoint.changed_at} by {endpoint.changed_by}",
        }
    )
    return f"{head}\n\n{policy_table(endpoint.policy)}"


def policy_table(policy: Mapping[str, Any]) -> str:
    """Every policy by its path, with its default where that differs."""
    import msgspec

    from roadworthy.contract.policy import BreakerPolicy, CachePolicy, Policy

    usual = {**msgspec.to_builtins(Policy()), "fallback": []}
    groups = {"cache": msgspec.to_builtins(CachePolicy()), "breaker": msgspec.to_builtins(BreakerPolicy())}
    rows: list[tuple[object, ...]] = []
    for name, value in policy.items():
        default = usual.get(name)
        if name == "layers":  # this process need not know the defaults of a plug-in
            rows += [(f"layers.{layer}.{key}", _shown(each), "") for layer, given in value.items() for key, each in given.items()]
        elif isinstance(value, Mapping):
            inner = groups.get(name, default or {})
            rows += [_row(f"{name}.{key}", each, inner.get(key)) for key, each in value.items()]
        elif name == "fallback" and value:
            rows += [(f"fallback[{number}]", _step(step), "none" if not number else "") for number, step in enumerate(value)]
        else:
            rows.append(_row(name, value if value != [] else None, None if default == [] else default))
    return table(("POLICY", "VALUE", "DEFAULT"), rows)


def _row(path: str, value: object, default: object) -> tuple[str, str, str]:
    return path, _shown(value), "" if value == default else _shown(default)


def _shown(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _step(step: Mapping[str, Any]) -> str:
    says = {"version": "version", "rule": "rule", "cached": "max_age_s", "static": "value"}.get(str(step.get("kind")))
    value = None if says is None else step.get(says)
    if says == "version" and value is None:
        value = "the previous one"
    return f"{step.get('kind')} {_shown(value)}" if says is not None else _shown(dict(step))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "describe")(describe)
