"""`roadworthy serve FILE`: one package behind its own gateway, without a control plane."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from roadworthy.cli.commands.machine import GatewayOptions
from roadworthy.cli.commands.registry import grant_option
from roadworthy.cli.home import Home
from roadworthy.cli.launch import Launch, gateway_listeners, gateway_sockets, run
from roadworthy.cli.options import argument, command, option
from roadworthy.cli.output import facts, quiet_children, show
from roadworthy.cli.plans import (
    GatewayPlan,
    gateway_children,
    is_loopback,
    private_paths,
    url_of,
    worker_limits,
)
from roadworthy.foundation.confine.grants import check_grants, parse_grants
from roadworthy.foundation.errors import PackageError, PackageRefused, RoadworthyError, SettingsError
from roadworthy.foundation.files import private_folder, remove_tree, sweep_temporary, write_atomic
from roadworthy.foundation.keys import hash_key, make_key
from roadworthy.foundation.references import check_name

if TYPE_CHECKING:
    from roadworthy.package.package import Package

_PID_FILE = "serve.pid"
_LONGEST_INLINE = 4_000


class Unit(str, Enum):
    """Unit of integers in timestamp columns, counted since 1970 UTC."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


@dataclass(frozen=True, kw_only=True)
class ServeOptions(GatewayOptions):
    """`serve`."""

    package: Path = argument("FILE", "A packed .rw file or an unpacked package.")
    endpoint: str | None = option("--endpoint", "Serve under this public name; the package's name by default.")
    allow_code: str | None = option("--allow-code", "Allow the code of the package with this digest to run.", metavar="DIGEST")
    grant: list[str] | None = grant_option()
    auth: bool = option("--auth/--no-auth", "Require a key from callers; --no-auth works on loopback only.", True)
    timestamp_integers: Unit | None = option(
        "--timestamp-integers", "Read integers in timestamp columns in this unit; refuse them by default."
    )


def serve(options: ServeOptions) -> None:
    """Serve one package without a control plane.

    Runs until Ctrl-C. Prints a complete `curl` command to try.
    """
    settings = options.settings
    if not options.auth and not is_loopback(settings.gateway.host):
        raise SettingsError(
            f"--no-auth: expected a loopback address for --host, got {settings.gateway.host}",
            code="auth-needed",
            hint="omit --no-auth, or listen on 127.0.0.1",
        )
    package = _audited(options)
    endpoint = check_name(options.endpoint or package.name, "endpoint name")
    home = Home(settings.general.home_folder())
    folder = home.served(endpoint)
    with home.held(str(Path("serve", endpoint, _PID_FILE))), gateway_sockets(settings) as sockets:
        key = make_key() if options.auth else None
        _fill(folder, options, package, endpoint, key)
        plan = GatewayPlan("serve", folder, *sockets)
        url = url_of(settings.gateway.host, sockets[0])
        metrics = f"{url_of(settings.gateway.metrics_host, sockets[1])}/metrics"
        message = {
            "url": f"{url}/v1/models/{endpoint}:predict",
            "endpoint": endpoint,
            "digest": package.digest,
            "key": None if key is None else key[1],
            "metrics": metrics,
            "curl": _curl(f"{url}/v1/models/{endpoint}:predict", package, key, folder),
        }
        announce = partial(_announce, message, options.json)
        children = gateway_children(plan, settings, quiet_children(settings))
        limits = worker_limits(settings)
        doors = gateway_listeners(sockets, settings)
        run(Launch(children, plan.slab, [f"{url}/readyz"], announce, limits, _failure, doors=doors))


def _audited(options: ServeOptions) -> Package:
    """The package. Checks here that this machine may and can run it, so that the command fails instead of a worker."""
    from roadworthy.package.archive import open_package
    from roadworthy.package.audit import audit

    options.allow_plugins()
    package = open_package(options.package)
    settings = options.settings
    check_grants(_granted(options), settings.general.grants, private_paths(settings))
    try:
        audit(package, () if options.allow_code is None else (options.allow_code,), None)
    except PackageRefused as error:
        if error.code != "code-not-allowed":
            raise
        line = f"roadworthy serve {shlex.quote(str(options.package))} --allow-code {package.digest}"
        raise PackageRefused(
            error.message,
            code="code-not-allowed",
            hint=f"if you trust the source of the package, run: {line}",
            facts=error.facts,
        ) from error
    return package


def _granted(options: ServeOptions) -> tuple[str, ...]:
    return parse_grants(options.grant or ())


def _fill(folder: Path, options: ServeOptions, package: Package, endpoint: str, key: tuple[str, str] | None) -> None:
    """Write the package and the snapshot to the gateway's folder, and delete packages of earlier runs."""
    from roadworthy.contract.policy import Policy, Timestamps
    from roadworthy.contract.snapshot import (
        FULL_SHARE,
        EndpointEntry,
        KeyEntry,
        PackageEntry,
        Snapshot,
        VariantEntry,
        encode_snapshot,
        leave_members,
    )
    from roadworthy.package.archive import unpack

    packages = private_folder(folder / "packages")
    sweep_temporary(packages)
    name = package.digest.removeprefix("sha256:")
    for other in packages.iterdir():
        if other.name != name:
            remove_tree(other)
    unpack(options.package, packages / name)
    unit = options.timestamp_integers
    allowed = None if options.allow_code != package.digest else "serve"
    leave = leave_members(allowed, _granted(options) if package.carries_code else ())
    snapshot = Snapshot(
        epoch=f"local-{make_key()[0].removeprefix('key-')}",
        revision=1,
        packages=(PackageEntry(package.digest, package.name, 1, 0, **leave),),
        endpoints=(
            EndpointEntry(
                endpoint,
                1,
                (VariantEntry(package.digest, FULL_SHARE),),
                package.signature.to_document(),
                policy=Policy(timestamps=Timestamps(unit and unit.value)),
            ),
        ),
        keys=None if key is None else (KeyEntry(key[0], hash_key(key[1]), "predictor"),),
    )
    write_atomic(folder / "snapshot.json", encode_snapshot(snapshot), mode=0o600)


def _curl(url: str, package: Package, key: tuple[str, str] | None, folder: Path) -> str:
    """A complete `curl` command with the package's first golden example. It shows an answer in parts as its parts come."""
    from roadworthy.schema.rows import encode_rows

    inputs, _ = package.golden()
    (row,) = encode_rows(inputs.slice(0, 1))
    body = json.dumps({"instances": [row]}, ensure_ascii=False)
    if len(body) > _LONGEST_INLINE:
        write_atomic(folder / "example.json", body.encode("utf-8"), mode=0o600)
        body = f"@{folder / 'example.json'}"
    in_parts = package.signature.parts
    words = ["curl", "-sN" if in_parts else "-s", url, "-H", "Content-Type: application/json"]
    if in_parts:
        words += ["-H", "Accept: text/event-stream"]
    if key is not None:
        words += ["-H", f"Authorization: Bearer {key[1]}"]
    return shlex.join([*words, "-d", body])


def _announce(message: Mapping[str, Any], as_json: bool) -> None:
    head = facts({name: message[name] for name in ("url", "digest", "key", "metrics")})
    show(dict(message), f"serving {message['endpoint']}\n{head}\n\n{message['curl']}\n", as_json=as_json)


def _failure(answer: Mapping[str, Any]) -> RoadworthyError | None:
    if answer.get("reason") != "failed":
        return None
    return PackageError(
        "the package cannot be served: it could not be loaded, or its answers differ from its golden examples",
        code="serve-failed",
        hint="the lines above give the reason; `roadworthy verify --prove` checks it again",
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "serve")(serve)
