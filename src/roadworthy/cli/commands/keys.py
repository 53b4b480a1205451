"""`roadworthy keys list|create|revoke|recover`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import typer

from roadworthy.cli.home import Home
from roadworthy.cli.options import Options, RemoteOptions, command
from roadworthy.cli.output import say, show, table
from roadworthy.cli.plans import database_url
from roadworthy.foundation.clock import SystemClock
from roadworthy.foundation.files import keep_private


class Role(str, Enum):
    """What a key may do."""

    ADMIN = "admin"
    PREDICTOR = "predictor"
    GATEWAY = "gateway"


@dataclass(frozen=True, kw_only=True)
class KeysOptions(RemoteOptions):
    """`keys list`."""


@dataclass(frozen=True, kw_only=True)
class CreateOptions(RemoteOptions):
    """`keys create`."""

    role: Annotated[Role, typer.Option("--role", help="What it may do.")] = Role.PREDICTOR
    endpoint: Annotated[
        list[str] | None,
        typer.Option("--endpoint", metavar="NAME", help="Only this endpoint may be called; repeat for more."),
    ] = None
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the key; gateways with it report as NAME/INSTANCE (the key's id)."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RevokeOptions(RemoteOptions):
    """`keys revoke`."""

    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` prints it.")]


def keys_list(options: KeysOptions) -> None:
    """List the keys: ids and roles, never the keys themselves."""
    from roadworthy.client import Client

    with Client.from_settings(options.settings.client) as client:
        keys = client.keys()
    rows = [
        (key["id"], key["name"], key["role"], ",".join(key.get("endpoints") or ()) or "all", key.get("created_at"))
        for key in keys
    ]
    show(keys, table(("ID", "NAME", "ROLE", "ENDPOINTS", "CREATED"), rows), as_json=options.json)


def keys_create(options: CreateOptions) -> None:
    """Make a key and print it, this once."""
    from roadworthy.client import Client

    with Client.from_settings(options.settings.client) as client:
        made = client.create_key(options.role.value, options.endpoint or None, options.name)
    if not options.json:
        say(f"{made['id']} ({made['role']}); the key is shown only now:")
    show(made, str(made["key"]), as_json=options.json)


def keys_revoke(options: RevokeOptions) -> None:
    """Make a key useless."""
    from roadworthy.client import Client

    with Client.from_settings(options.settings.client) as client:
        client.revoke_key(options.key_id)
    show({"id": options.key_id, "revoked": True}, f"{options.key_id} revoked", as_json=options.json)


def keys_recover(options: Options) -> None:
    """Make an admin key in the database itself, when no admin key is at hand, and print it, this once.

    Needs the control plane's machine, not a key.
    """
    from roadworthy.control.recovery import recover_admin

    keep_private()
    settings = options.settings
    url = database_url(settings, Home(settings.general.home_folder()).control)
    key_id, text = recover_admin(url, SystemClock())
    if not options.json:
        say(f"{key_id} (admin); the key is shown only now, and known to control planes within seconds:")
    show({"id": key_id, "role": Role.ADMIN.value, "key": text}, text, as_json=options.json)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="API keys.", no_args_is_help=True, rich_markup_mode=None)
    command(group, "list")(keys_list)
    command(group, "create")(keys_create)
    command(group, "revoke")(keys_revoke)
    command(group, "recover")(keys_recover)
    app.add_typer(group, name="keys")
