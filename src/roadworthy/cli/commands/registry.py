"""`roadworthy push` and `roadworthy list`: packages into the registry, and what is in it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roadworthy.cli.options import RemoteOptions, command
from roadworthy.cli.output import short, show, size, table
from roadworthy.foundation.confine.grants import FORMS

if TYPE_CHECKING:
    from roadworthy.client import Client


GRANT: Any = typer.Option(
    "--grant", metavar="GRANT", help=f"Let its code have {FORMS}, as general.grants allows; repeat for more."
)


class What(str, Enum):
    """What can be listed."""

    MODELS = "models"
    VERSIONS = "versions"
    ENDPOINTS = "endpoints"


@dataclass(frozen=True, kw_only=True)
class PushOptions(RemoteOptions):
    """`push`."""

    package: Annotated[Path, typer.Argument(metavar="FILE", help="A packed .rw file.")]
    allow_code: Annotated[
        str | None,
        typer.Option(
            "--allow-code", metavar="DIGEST", help="Digest of this package, when it carries code that may run."
        ),
    ] = None
    grant: Annotated[list[str] | None, GRANT] = None


@dataclass(frozen=True, kw_only=True)
class ListOptions(RemoteOptions):
    """`list`."""

    what: Annotated[What, typer.Argument(metavar="[models|versions|endpoints]", help="What to list.")] = What.VERSIONS
    model: Annotated[str | None, typer.Option("--model", help="Only versions of this model.")] = None


def push(options: PushOptions) -> None:
    """Register a package as the next version of its model.

    The control plane proves it before it is taken.
    """
    from roadworthy.client import Client

    with Client.from_settings(options.settings.client) as client, _bar(options.package) as progress:
        grants = options.grant or ()
        pushed = client.push(options.package, allow_code=options.allow_code, grants=grants, progress=progress)
    reference = f"{pushed['name']}:{pushed['version']}"
    text = f"{reference}\n  {pushed['digest']}\n  runtimes: {', '.join(pushed.get('runtimes') or ())}"
    if pushed.get("grants"):
        text += f"\n  granted: {', '.join(pushed['grants'])}"
    show(pushed, text, as_json=options.json)


@contextlib.contextmanager
def _bar(path: Path) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar while a big file travels, on a terminal only."""
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


def list_(options: ListOptions) -> None:
    """List models and versions, or endpoints."""
    from roadworthy.client import Client

    with Client.from_settings(options.settings.client) as client:
        items, text = _LISTS[options.what](client, options.model)
    show(items, text, as_json=options.json)


def _models(client: Client, _model: str | None) -> tuple[list[dict[str, Any]], str]:
    models = client.models()
    rows = [(model["name"], model["versions"], f"{model['name']}:{model['latest']}") for model in models]
    return models, table(("MODEL", "VERSIONS", "LATEST"), rows)


def _versions(client: Client, model: str | None) -> tuple[list[dict[str, Any]], str]:
    names = [model] if model is not None else [str(known["name"]) for known in client.models()]
    versions = [version for name in names for version in client.versions(name)]
    rows = [
        (
            f"{version['name']}:{version['version']}",
            short(version["digest"]),
            size(version.get("size_bytes")),
            version.get("pushed_at"),
            version.get("pushed_by"),
            ",".join(version.get("runtimes") or ()),
            ",".join(version.get("grants") or ()),
            ",".join(version.get("serving") or ()),
        )
        for version in versions
    ]
    return versions, table(("VERSION", "DIGEST", "SIZE", "PUSHED", "BY", "RUNTIMES", "GRANTED", "SERVING"), rows)


def _endpoints(client: Client, _model: str | None) -> tuple[list[dict[str, Any]], str]:
    endpoints = client.endpoints()
    return endpoints, endpoint_table(endpoints)


def endpoint_table(endpoints: list[dict[str, Any]]) -> str:
    """Endpoints for people."""
    rows = [
        (
            endpoint["name"],
            endpoint["state"],
            endpoint.get("version"),
            short(endpoint.get("digest")),
            endpoint.get("previous"),
            pending_text(endpoint.get("pending")) or _rollout_text(endpoint.get("rollout")),
            endpoint["generation"],
        )
        for endpoint in endpoints
    ]
    return table(("ENDPOINT", "STATE", "VERSION", "DIGEST", "PREVIOUS", "PENDING", "GENERATION"), rows)


def _rollout_text(rollout: dict[str, Any] | None) -> str | None:
    """How far a rollout in progress is."""
    if rollout is None:
        return None
    paused = ", paused" if rollout["paused"] else ""
    return f"{rollout['version']} {rollout['phase']}: step {rollout['step']}, {rollout['share']:g} %{paused}"


def pending_text(pending: dict[str, Any] | None) -> str | None:
    """What an endpoint is changing to."""
    if pending is None:
        return None
    why = f": {pending['reason']}" if pending.get("reason") else ""
    return f"{pending['version']} {pending['state']}{why}"


_LISTS: dict[What, Callable[[Client, str | None], tuple[list[dict[str, Any]], str]]] = {
    What.MODELS: _models,
    What.VERSIONS: _versions,
    What.ENDPOINTS: _endpoints,
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "push")(push)
    command(app, "list")(list_)
