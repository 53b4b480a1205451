"""`roadworthy key list | create | revoke | recover`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import typer

from roadworthy.cli.home import Home
from roadworthy.cli.options import Options, RemoteOptions, argument, command, group, option
from roadworthy.cli.output import say, show, table
from roadworthy.cli.plans import database_url
from roadworthy.foundation.clock import SystemClock
from roadworthy.foundation.files import keep_private


class Role(str, Enum):
    """What a key permits."""

    ADMIN = "admin"
    PREDICTOR = "predictor"
    GATEWAY = "gateway"


@dataclass(frozen=True, kw_only=True)
class CreateOptions(RemoteOptions):
    """`key create`."""

    role: Role = option("--role", "Give the key this role.", Role.PREDICTOR)
    endpoint: list[str] | None = option("--endpoint", "Allow calls to this endpoint only; repeat for more.", metavar="NAME")
    name: str | None = option("--name", "Give the key this name (its id). Gateways that use the key report as NAME/INSTANCE.")


@dataclass(frozen=True, kw_only=True)
class RevokeOptions(RemoteOptions):
    """`key revoke`."""

    key_id: str = argument("ID", "The key's id, as `key list` prints it.")


def list_(options: RemoteOptions) -> None:
    """List ids, names and roles of the keys, not the keys."""
    with options.client() as client:
        keys = client.keys()
    rows = [(key.id, key.name, key.role, ",".join(key.endpoints or ()) or "all", key.created_at) for key in keys]
    show(keys, table(("ID", "NAME", "ROLE", "ENDPOINTS", "CREATED"), rows), as_json=options.json)


def create(options: CreateOptions) -> None:
    """Create a key and print it (shown only once)."""
    with options.client() as client:
        made = client.create_key(options.role.value, options.endpoint or None, options.name)
    if not options.json:
        say(f"{made.id} ({made.role}); the key is shown only this once:")
    show(made, made.key, as_json=options.json)


def revoke(options: RevokeOptions) -> None:
    """Revoke a key. Gateways reject it within seconds."""
    with options.client() as client:
        client.revoke_key(options.key_id)
    show({"id": options.key_id, "revoked": True}, f"{options.key_id} revoked", as_json=options.json)


def recover(options: Options) -> None:
    """Create an admin key in the database and print it (once).

    Use it after losing every admin key. It needs access to the control plane's machine instead of a key.
    """
    from roadworthy.control.recovery import recover_admin

    keep_private()
    settings = options.settings
    url = database_url(settings, Home(settings.general.home_folder()).control)
    key_id, text = recover_admin(url, SystemClock())
    if not options.json:
        say(f"{key_id} (admin); the key is shown only this once, and control planes accept it within seconds:")
    show({"id": key_id, "role": Role.ADMIN.value, "key": text}, text, as_json=options.json)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    verbs = group(app, "key", "List, create and revoke API keys.")
    command(verbs, "list")(list_)
    command(verbs, "create")(create)
    command(verbs, "revoke")(revoke)
    command(verbs, "recover")(recover)
