"""`roadworthy push`, `version …`, `model list` and `endpoint list`: the registry and the endpoints that serve from it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from roadworthy.cli.commands.packages import signature_table
from roadworthy.cli.options import RemoteOptions, argument, command, group, option
from roadworthy.cli.output import facts, short, show, size, table
from roadworthy.foundation.confine.grants import FORMS
from roadworthy.foundation.errors import Conflict, PackageError
from roadworthy.foundation.references import VersionReference

if TYPE_CHECKING:
    from roadworthy.contract.api.endpoints import Endpoint, PendingChange, RolloutProgress


def grant_option() -> Any:
    """`--grant` of `push` and `serve`."""
    return option("--grant", f"Grant its code {FORMS}, as general.grants allows; repeat for more.", metavar="GRANT")


@dataclass(frozen=True, kw_only=True)
class PushOptions(RemoteOptions):
    """`push`."""

    package: Path = argument("FILE", "A packed .rw file.")
    allow_code: str | None = option("--allow-code", "Allow the code of the package with this digest to run.", metavar="DIGEST")
    grant: list[str] | None = grant_option()


@dataclass(frozen=True, kw_only=True)
class VersionsOptions(RemoteOptions):
    """`version list`."""

    model: str | None = option("--model", "List only versions of this model.")


@dataclass(frozen=True, kw_only=True)
class VersionOptions(RemoteOptions):
    """`version show`, `version delete`."""

    version: str = argument("VERSION", "A version, such as `flights:2`.")


@dataclass(frozen=True, kw_only=True)
class DownloadOptions(VersionOptions):
    """`version download`."""

    out: Path | None = option("--out", "Write to this file instead of NAME-NUMBER.rw.", metavar="FILE")


def push(options: PushOptions) -> None:
    """Register a package as the next version of its model.

    The control plane proves the package before it accepts it.
    """
    with options.client() as client, _bar(options.package) as progress:
        grants = options.grant or ()
        pushed = client.push(options.package, allow_code=options.allow_code, grants=grants, progress=progress)
    reference = f"{pushed.name}:{pushed.version}"
    text = f"{reference}\n  {pushed.digest}\n  runtimes: {', '.join(pushed.runtimes)}"
    if pushed.grants:
        text += f"\n  granted: {', '.join(pushed.grants)}"
    show(pushed, text, as_json=options.json)


@contextlib.contextmanager
def _bar(path: Path) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar for a large file, on a terminal only."""
    if not sys.stderr.isatty() or path.stat().st_size < 1 << 20:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("pushing", total=path.stat().st_size)

        def advance(sent: int, total: int) -> None:
            waiting = "proving" if sent == total else "pushing"
            progress.update(task, completed=sent, description=waiting)

        yield advance


def models(options: RemoteOptions) -> None:
    """List models with the number of their versions."""
    with options.client() as client:
        found = client.models()
    rows = [(model.name, model.versions, f"{model.name}:{model.latest}") for model in found]
    show(found, table(("MODEL", "VERSIONS", "LATEST"), rows), as_json=options.json)


def versions(options: VersionsOptions) -> None:
    """List registered versions.

    Prints digest, size, grants, and the endpoints that serve each version.
    """
    with options.client() as client:
        names = [known.name for known in client.models()] if options.model is None else [options.model]
        found = [version for name in names for version in client.versions(name)]
    rows = [
        (
            f"{version.name}:{version.version}",
            short(version.digest),
            size(version.size_bytes),
            version.pushed_at,
            version.pushed_by,
            ",".join(version.runtimes),
            ",".join(version.grants),
            ",".join(version.serving),
        )
        for version in found
    ]
    headings = ("VERSION", "DIGEST", "SIZE", "PUSHED", "BY", "RUNTIMES", "GRANTED", "SERVING")
    show(found, table(headings, rows), as_json=options.json)


def version_show(options: VersionOptions) -> None:
    """Show a version.

    Prints its digest, who pushed it, its runtimes and grants, the endpoints that hold it, and its signature.
    """
    from roadworthy.schema.signature import Signature

    with options.client() as client:
        found = client.version(options.version)
    text = facts(
        {
            "version": f"{found.name}:{found.version}",
            "digest": found.digest,
            "size": size(found.size_bytes),
            "pushed": f"{found.pushed_at} by {found.pushed_by}",
            "runtimes": ", ".join(found.runtimes),
            "code": f"allowed by {found.allowed_by}" if found.allowed_by else "not allowed to run",
            "granted": ", ".join(found.grants),
            "held by": ", ".join(found.serving) or "no endpoint",
        }
    )
    show(found, f"{text}\n\n{signature_table(Signature.from_document(found.signature))}", as_json=options.json)


def version_delete(options: VersionOptions) -> None:
    """Delete a version and its package.

    Refused while an endpoint serves the version or may go back to it. The number is not used again.
    """
    with options.client() as client:
        client.delete_version(options.version)
    show({"version": options.version, "deleted": True}, f"{options.version} deleted", as_json=options.json)


def version_download(options: DownloadOptions) -> None:
    """Download the package of a version and check every byte of it.

    An existing file is not replaced.
    """
    from roadworthy.package.archive import open_package

    reference = VersionReference.parse(options.version)
    path = options.out or Path(f"{reference.name}-{reference.version}.rw")
    if path.exists():
        raise Conflict(f"{path} already exists", code="file-exists", hint="name a new file with --out")
    with options.client() as client:
        client.download(options.version, path)
    try:
        package = open_package(path)
    except PackageError:
        path.unlink()
        raise
    document = {"version": options.version, "path": str(path), "digest": package.digest, "size_bytes": path.stat().st_size}
    show(document, f"{path}\n  {package.digest}", as_json=options.json)


def endpoints(options: RemoteOptions) -> None:
    """List endpoints.

    Prints the current and previous version of each, and changes in progress.
    """
    with options.client() as client:
        found = client.endpoints()
    show(found, endpoint_table(found), as_json=options.json)


def endpoint_table(endpoints: Sequence[Endpoint]) -> str:
    """Endpoints as a table."""
    rows = [
        (
            endpoint.name,
            endpoint.state,
            endpoint.version,
            short(endpoint.digest),
            endpoint.previous,
            pending_text(endpoint.pending) or _rollout_text(endpoint.rollout),
            endpoint.generation,
        )
        for endpoint in endpoints
    ]
    return table(("ENDPOINT", "STATE", "VERSION", "DIGEST", "PREVIOUS", "PENDING", "GENERATION"), rows)


def _rollout_text(rollout: RolloutProgress | None) -> str | None:
    """Phase, step and share of a rollout in progress."""
    if rollout is None:
        return None
    paused = ", paused" if rollout.paused else ""
    return f"{rollout.version} {rollout.phase}: step {rollout.step}, {rollout.share:g} %{paused}"


def pending_text(pending: PendingChange | None) -> str | None:
    """The version that an endpoint is changing to, with its state."""
    if pending is None:
        return None
    why = f": {pending.reason}" if pending.reason else ""
    return f"{pending.version} {pending.state}{why}"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "push")(push)
    verbs = group(app, "version", "List, show, download and delete versions.")
    command(verbs, "list")(versions)
    command(verbs, "show")(version_show)
    command(verbs, "download")(version_download)
    command(verbs, "delete")(version_delete)
    command(group(app, "model", "List models."), "list")(models)
    command(group(app, "endpoint", "List endpoints."), "list")(endpoints)
