"""Follows a rollout until it is over: a picture that moves on a terminal, lines elsewhere, documents where JSON was asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from roadworthy.cli.commands.rollout_texts import Rollout, details, line, standing
from roadworthy.cli.output import say
from roadworthy.foundation.errors import ClientError, Unavailable

if TYPE_CHECKING:
    from roadworthy.client import Client

_LINE_EACH_S = 10.0
"""Counts that change are worth a line so often; a change of anything else is at once."""
_PATIENCE_S = 300.0
"""So long the control plane may be away, such as for an upgrade, before watching ends with the error."""
_ASK_AGAIN_S = 1.0
_AWAY = "the control plane does not answer; gateways go on with the shares that they have"


def follow(client: Client, endpoint: str, rollout_id: str, *, as_json: bool) -> Rollout:
    """Show it whenever it changed; its last document.

    Raises:
        RoadworthyError: there is no such rollout; or the control plane does not answer, at the first look or for _PATIENCE_S.
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
        say(f"the rollout goes on; `roadworthy rollout abort {endpoint}` would send it back")
        raise


def _looks(client: Client, endpoint: str, rollout_id: str) -> Iterator[tuple[Rollout, str | None]]:
    """Each document that is new, with what is to be said beside it. A control plane that is away comes back."""
    rollout: Rollout = {}
    heard = time.monotonic()
    while not rollout or rollout["phase"] != "finished":
        try:
            for rollout in client.rollouts.watch(endpoint, rollout_id):
                rollout_id, heard = rollout["id"], time.monotonic()
                yield rollout, None
        except (ClientError, Unavailable):
            if not rollout or time.monotonic() - heard > _PATIENCE_S:
                raise
            yield rollout, _AWAY
            time.sleep(_ASK_AGAIN_S)


def _documents(looks: Iterator[tuple[Rollout, str | None]]) -> Rollout:
    last: Rollout = {}
    for last, note in looks:
        if note is None:
            print(json.dumps(last, ensure_ascii=False), flush=True)
    return last


def _lines(looks: Iterator[tuple[Rollout, str | None]]) -> Rollout:
    last: Rollout = {}
    stood: object = None
    told, at = "", 0.0
    for last, note in looks:
        text, stands = note or line(last), (standing(last), note)
        if stands != stood or (text != told and time.monotonic() - at >= _LINE_EACH_S):
            print(f"{datetime.now().astimezone():%H:%M:%S} {text}", flush=True)
            stood, told, at = stands, text, time.monotonic()
    return last


def _picture(looks: Iterator[tuple[Rollout, str | None]], console: Any) -> Rollout:
    from rich.live import Live
    from rich.text import Text

    last: Rollout = {}
    with Live(console=console, auto_refresh=False) as live:
        for last, note in looks:
            live.update(Text(details(last, console.width, note)), refresh=True)
    return last
