"""`roadworthy webhook create | list | show | delete | test | deliveries`."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from roadworthy.cli import exits
from roadworthy.cli.options import RemoteOptions, argument, command, group, option
from roadworthy.cli.output import facts, say, show, table

_ALL = "all"


@dataclass(frozen=True, kw_only=True)
class CreateOptions(RemoteOptions):
    """`webhook create`."""

    url: str = argument("URL", "Send events to this URL, https://….")
    event: list[str] | None = option("--event", "Send only events of this type; repeat for more.", metavar="TYPE")
    endpoint: list[str] | None = option("--endpoint", "Send only events of this endpoint; repeat for more.", metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class OneOptions(RemoteOptions):
    """Options of commands on one webhook."""

    webhook_id: str = argument("ID", "The webhook's id, as `webhook list` prints it.")


@dataclass(frozen=True, kw_only=True)
class DeliveriesOptions(OneOptions):
    """`webhook deliveries`."""

    last: int = option("--last", "Show this many attempts.", 20, metavar="N", min=1, max=100)


def create(options: CreateOptions) -> None:
    """Create a webhook and print its signing secret (shown only once)."""
    with options.client() as client:
        made = client.webhooks.create(options.url, events=options.event or None, endpoints=options.endpoint or None)
    if not options.json:
        say(f"{made.id}; the secret is shown only this once:")
    show(made, made.secret, as_json=options.json)


def list_(options: RemoteOptions) -> None:
    """List the webhooks: URL, events, endpoints and state."""
    with options.client() as client:
        found = client.webhooks.list()
    rows = [
        (
            each.id,
            each.state,
            str(each.behind),
            str(each.lost),
            ",".join(each.events or (_ALL,)),
            ",".join(each.endpoints or (_ALL,)),
            each.url,
        )
        for each in found
    ]
    headings = ("ID", "STATE", "BEHIND", "LOST", "EVENTS", "ENDPOINTS", "URL")
    show(found, table(headings, rows), as_json=options.json)


def show_(options: OneOptions) -> None:
    """Show one webhook, without its secret."""
    from msgspec import structs

    with options.client() as client:
        found = client.webhooks.get(options.webhook_id)
    lists = {name: ", ".join(getattr(found, name) or (_ALL,)) for name in ("events", "endpoints")}
    show(found, facts({**structs.asdict(found), **lists}), as_json=options.json)


def delete(options: OneOptions) -> None:
    """Delete a webhook, its secret and its pending deliveries."""
    with options.client() as client:
        client.webhooks.delete(options.webhook_id)
    show({"id": options.webhook_id, "deleted": True}, f"{options.webhook_id} deleted", as_json=options.json)


def test(options: OneOptions) -> None:
    """Send a ping to a webhook.

    Fails unless the receiver accepts it. After an accepted ping, a webhook that is failing or gone is tried again at once.
    """
    with options.client() as client:
        sent = client.webhooks.test(options.webhook_id)
    text = f"{sent.outcome} (status {sent.status or '-'}, {sent.took_ms} ms)"
    show(sent, f"{text}: {sent.reason}" if sent.reason else text, as_json=options.json)
    if sent.outcome != "delivered":
        raise typer.Exit(exits.FAILED)


def deliveries(options: DeliveriesOptions) -> None:
    """List the latest delivery attempts with outcome and reason."""
    with options.client() as client:
        found = client.webhooks.deliveries(options.webhook_id, options.last)
    rows = [
        (
            each.at,
            each.id,
            each.type,
            str(each.tries),
            each.outcome,
            each.status,
            f"{each.took_ms} ms",
            each.reason,
        )
        for each in found
    ]
    headings = ("AT", "ID", "TYPE", "TRY", "OUTCOME", "STATUS", "TOOK", "WHY")
    show(found, table(headings, rows), as_json=options.json)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    verbs = group(app, "webhook", "Notify other systems of events.")
    command(verbs, "create")(create)
    command(verbs, "list")(list_)
    command(verbs, "show")(show_)
    command(verbs, "delete")(delete)
    command(verbs, "test")(test)
    command(verbs, "deliveries")(deliveries)
