"""Follows a rollout until it ends: a live view on a terminal, lines elsewhere, JSON documents with `--json`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from roadworthy.cli.commands.rollout_texts import details, line, standing
from roadworthy.cli.output import as_text, say
from roadworthy.foundation.errors import ClientError, Unavailable

if TYPE_CHECKING:
    from roadworthy.client import Client
    from roadworthy.contract.api.rollouts import Rollout

_LINE_EACH_S = 10.0
"""Least seconds between lines of which only the counts differ. Any other change is printed at once."""
_AWAY_S = 300.0
"""How long the control plane may be away, such as for an upgrade, before watching ends with an error."""
_ASK_AGAIN_S = 1.0
_NOTE = "the control plane does not answer; gateways keep their current shares"


def follow(client: Client, endpoint: str, rollout_id: str, *, as_json: bool) -> Rollout:
    """Show the rollout whenever it changes, and return its last document.

    Raises:
        RoadworthyError: no such rollout, or the control plane does not answer: at the first request, or for _AWAY_S.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    looks = _looks(client, endpoint, rollout_id)
    try:
        if as_json:
            return _documents(looks)
        moves = console.is_terminal and not console.is_dumb_terminal
        return _picture(looks, console) if moves else _lines(looks)
    except KeyboardInterrupt:
        say(f"the rollout continues; `roadworthy rollout abort {endpoint}` ends it")
        raise


def _looks(client: Client, endpoint: str, rollout_id: str) -> Iterator[tuple[Rollout, str | None]]:
    """Each new document, with a note or None. Waits for a control plane that is away."""
    rollout: Rollout | None = None
    heard = time.monotonic()
    while rollout is None or rollout.phase != "finished":
        try:
            for rollout in client.rollouts.watch(endpoint, rollout_id):
                rollout_id, heard = rollout.id, time.monotonic()
                yield rollout, None
        except (ClientError, Unavailable):
            if rollout is None or time.monotonic() - heard > _AWAY_S:
                raise
            yield rollout, _NOTE
            time.sleep(_ASK_AGAIN_S)


def _documents(looks: Iterator[tuple[Rollout, str | None]]) -> Rollout:
    last: Rollout | None = None
    for last, note in looks:
        if note is None:
            print(as_text(last), flush=True)
    return _ended(last)


def _lines(looks: Iterator[tuple[Rollout, str | None]]) -> Rollout:
    last: Rollout | None = None
    stood: object = None
    told, at = "", 0.0
    for last, note in looks:
        text, stands = note or line(last), (standing(last), note)
        if stands != stood or (text != told and time.monotonic() - at >= _LINE_EACH_S):
            print(f"{datetime.now().astimezone():%H:%M:%S} {text}", flush=True)
            stood, told, at = stands, text, time.monotonic()
    return _ended(last)


def _picture(looks: Iterator[tuple[Rollout, str | None]], console: Any) -> Rollout:
    from rich.live import Live
    from rich.text import Text

    last: Rollout | None = None
    with Live(console=console, auto_refresh=False) as live:
        for last, note in looks:
            live.update(Text(details(last, console.width, note)), refresh=True)
    return _ended(last)


def _ended(last: Rollout | None) -> Rollout:
    assert last is not None  # noqa: S101  (the first look is shown or raises)
    return last
