"""`roadworthy webhook create | list | show | delete | test | deliveries`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from roadworthy.cli import exits
from roadworthy.cli.options import RemoteOptions, command
from roadworthy.cli.output import facts, say, show, table

_ALL = "all"


@dataclass(frozen=True, kw_only=True)
class CreateOptions(RemoteOptions):
    """`webhook create`."""

    url: Annotated[str, typer.Argument(metavar="URL", help="Send events to this URL, https://….")]
    event: Annotated[
        list[str] | None,
        typer.Option("--event", metavar="TYPE", help="Send only events of this type; repeat for more."),
    ] = None
    endpoint: Annotated[
        list[str] | None,
        typer.Option("--endpoint", metavar="NAME", help="Send only events of this endpoint; repeat for more."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ListOptions(RemoteOptions):
    """`webhook list`."""


@dataclass(frozen=True, kw_only=True)
class OneOptions(RemoteOptions):
    """Options of commands on one webhook."""

    webhook_id: Annotated[str, typer.Argument(metavar="ID", help="The webhook's id, as `webhook list` prints it.")]


@dataclass(frozen=True, kw_only=True)
class DeliveriesOptions(OneOptions):
    """`webhook deliveries`."""

    last: Annotated[int, typer.Option("--last", metavar="N", help="Show this many attempts.", min=1, max=100)] = 20


def create(options: CreateOptions) -> None:
    """Create a webhook and print its signing secret (shown only once)."""
    from roadworthy.client import Client

    with Client.from_settings(options.settings.client) as client:
        made = client.webhooks.create(options.url, events=options.event or None, endpoints=options.endpoint or None)
    if not options.json:
        say(f"{made['id']}; the secret is shown only this once:")
    show(made, made["secret"], as_json=options.json)


def list_(options: ListOptions) -> None:
    """List the webhooks: URL, events, endpoints and state."""
    from roadworthy.client import Client

    with Client.from_settings(options.settings.client) as client:
        found = client.webhooks.list()
    rows = [
        (
            each["id"],
            each["state"],
            str(each["behind"]),
            str(each["lost"]),
            ",".join(each["events"] or (_ALL,)),
            ",".join(each["endpoints"] or (_ALL,)),
            each["url"],
        )
        for each in found
    ]
    headings = ("ID", "STATE", "BEHIND", "LOST", "EVENTS", "ENDPOINTS", "URL")
    show(found, table(headings, rows), as_json=options.json)


def show_(options: OneOptions) -> None:
    """Show one webhook, without its secret."""
    from roadworthy.client import Client

    with Client.from_settings(options.settings.client) as client:
        found = client.webhooks.get(options.webhook_id)
    lists = {name: ", ".join(found[name] or (_ALL,)) for name in ("events", "endpoints")}
    show(found, facts({**found, **lists}), as_json=options.json)


def delete(options: OneOptions) -> None:
    """Delete a webhook, its secret and its pending deliveries."""
    from roadworthy.client import Client

    with Client.from_settings(options.settings.client) as client:
        client.webhooks.delete(options.webhook_id)
    show({"id": options.webhook_id, "deleted": True}, f"{options.webhook_id} deleted", as_json=options.json)


def test(options: OneOptions) -> None:
    """Send a ping to a webhook.

    Fails unless the receiver accepts it. After an accepted ping, a webhook that is failing or gone is tried again at once.
    """
    from roadworthy.client import Client

    with Client.from_settings(options.settings.client) as client:
        sent = client.webhooks.test(options.webhook_id)
    text = f"{sent['outcome']} (status {sent['status'] or '-'}, {sent['took_ms']} ms)"
    show(sent, f"{text}: {sent['reason']}" if sent["reason"] else text, as_json=options.json)
    if sent["outcome"] != "delivered":
        raise typer.Exit(exits.FAILED)


def deliveries(options: DeliveriesOptions) -> None:
    """List the latest delivery attempts with outcome and reason."""
    from roadworthy.client import Client

    with Client.from_settings(options.settings.client) as client:
        found = client.webhooks.deliveries(options.webhook_id, options.last)
    rows = [
        (
            each["at"],
            each["id"],
            each["type"],
            str(each["tries"]),
            each["outcome"],
            each["status"],
            f"{each['took_ms']} ms",
            each["reason"],
        )
        for each in found
    ]
    headings = ("AT", "ID", "TYPE", "TRY", "OUTCOME", "STATUS", "TOOK", "WHY")
    show(found, table(headings, rows), as_json=options.json)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Notify other systems of events.", no_args_is_help=True, rich_markup_mode=None)
    command(group, "create")(create)
    command(group, "list")(list_)
    command(group, "show")(show_)
    command(group, "delete")(delete)
    command(group, "test")(test)
    command(group, "deliveries")(deliveries)
    app.add_typer(group, name="webhook")
