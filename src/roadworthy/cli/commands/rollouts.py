"""`roadworthy rollout start | watch | show | list | history | pause | resume | approve | promote | abort`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import typer

from roadworthy.cli import exits
from roadworthy.cli.commands.rollout_texts import details, history_table, list_table, summary
from roadworthy.cli.commands.rollout_watch import follow
from roadworthy.cli.options import RemoteOptions, argument, command, group, option
from roadworthy.cli.output import as_text, say, show
from roadworthy.foundation.errors import InvalidRequest

if TYPE_CHECKING:
    from roadworthy.client.rollouts import StartOptions as StartCall
    from roadworthy.contract.api.rollouts import Rollout, StartedRollout

_GOOD = ("promoted", "completed")


@dataclass(frozen=True, kw_only=True)
class StartOptions(RemoteOptions):
    """`rollout start`."""

    endpoint: str | None = argument("ENDPOINT", "The endpoint.", None)
    version: str | None = argument("VERSION", "The version to roll out, like flights:3.", None)
    file: Path | None = option("--file -f", "Read the plan from this YAML or JSON file; flags override it.", metavar="FILE")
    strategy: str | None = option("--strategy", "Use canary, blue-green, ab, shadow or all-at-once.")
    steps: str | None = option("--steps", "Use these shares, one per step, like 5,25,50,100.", metavar="PERCENTS")
    hold: str | None = option("--hold", "Stay at each step at least this long, like 10m.", metavar="TIME")
    bake: str | None = option("--bake", "Watch a blue-green switch this long, like 10m.", metavar="TIME")
    share: float | None = option("--share", "Give ab or shadow this share.", metavar="PERCENT")
    evidence: int | None = option("--evidence", "Require at least this many requests in each step.", metavar="N")
    alpha: float | None = option("--alpha", "False-rollback probability over the whole rollout (0.01).")
    criteria: str | None = option("--criteria", "Judge by these signals, like errors,slow.", metavar="NAMES")
    deadline: str | None = option("--deadline", "Apply the plan's at_deadline if undecided after this time.", metavar="TIME")
    accept_signature_change: str | None = option(
        "--accept-signature-change", "Accept a different signature for this reason; audited.", metavar="REASON"
    )
    supersede: bool = option("--supersede", "End a rollout in progress and replace it.", False)
    watch: bool = option("--watch", "Follow the rollout until it ends.", False)
    exit_status: bool = option("--exit-status", "With --watch: fail unless the rollout is promoted or completed.", False)


@dataclass(frozen=True, kw_only=True)
class OneOptions(RemoteOptions):
    """Options of commands on one rollout."""

    endpoint: str = argument("ENDPOINT", "The endpoint.")
    id: str = option("--id", "Use this rollout, not the one in progress or the last one.", "current")


@dataclass(frozen=True, kw_only=True)
class WatchOptions(OneOptions):
    """`rollout watch`."""

    exit_status: bool = option("--exit-status", "Fail unless the rollout is promoted or completed.", False)


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(RemoteOptions):
    """`rollout history`."""

    endpoint: str = argument("ENDPOINT", "The endpoint.")
    last: int = option("--last", "Show this many rollouts.", 20, metavar="N", min=1, max=200)


def start(options: StartOptions) -> None:
    """Roll out a version to an endpoint step by step.

    Each step is judged by evidence. A version that is worse is rolled back automatically.
    """
    plan = _plan(options)
    endpoint = options.endpoint or plan.pop("endpoint", None)
    version = options.version or plan.pop("version", None)
    for name in ("endpoint", "version"):
        plan.pop(name, None)
    if not isinstance(endpoint, str) or not isinstance(version, str):
        raise InvalidRequest(
            "expected an endpoint and a version",
            code="invalid-plan",
            hint="write `roadworthy rollout start flights flights:3`, or put `endpoint:` and `version:` in the plan",
        )
    asked: StartCall = {"supersede": options.supersede}
    if options.accept_signature_change is not None:
        asked["accept_signature_change"] = options.accept_signature_change
    with options.client() as client:
        begun = client.rollouts.start(endpoint, version, plan, **asked)
        _show_start(begun, options)
        if options.watch:
            _end(follow(client, endpoint, begun.id, as_json=options.json), options.exit_status)


def _show_start(begun: StartedRollout, options: StartOptions) -> None:
    """Print the new rollout and its warnings. With `--watch` and `--json` this is the first of many lines."""
    if options.json:
        print(as_text(begun, None if options.watch else 2), flush=True)
        return
    for warning in begun.warnings:
        say(f"warning: {warning.text} ({warning.code})")
    print(f"{begun.endpoint}: {summary(begun)}\nrollout {begun.id}", flush=True)
    if not options.watch:
        say(f"`roadworthy rollout watch {begun.endpoint}` follows the rollout")


_FLAGS = ("strategy", "hold", "bake", "share", "evidence", "alpha", "deadline")


def _plan(options: StartOptions) -> dict[str, Any]:
    """The plan of the file, overridden by the flags. The control plane validates it."""
    from roadworthy.rollout.plan.documents import in_this_form, load

    plan: Any = {}
    if options.file is not None:
        try:
            plan = load(options.file.read_bytes())
        except ValueError as error:
            raise InvalidRequest(f"{options.file.name}: {error}", code="invalid-plan", hint="see docs/rollouts.md") from error
        if not isinstance(plan, dict):
            raise InvalidRequest(
                f"{options.file.name}: expected a plan", code="invalid-plan", hint="begin it with `strategy: canary`"
            )
    plan = {
        **in_this_form(plan),
        **{name: getattr(options, name) for name in _FLAGS if getattr(options, name) is not None},
    }
    if options.steps is not None:
        plan["steps"] = [_number(text) for text in options.steps.split(",")]
    if options.criteria is not None:
        plan["criteria"] = options.criteria.split(",")
    plan.setdefault("strategy", "canary")
    return dict(plan)


def _number(text: str) -> int | float | str:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text.strip()  # the control plane reports what is wrong


def watch(options: WatchOptions) -> None:
    """Follow a rollout until it ends.

    Shows step, share, counts of both versions, evidence, the reason for waiting and the time left.
    """
    with options.client() as client:
        ended = follow(client, options.endpoint, options.id, as_json=options.json)
    _end(ended, options.exit_status)


def _end(rollout: Rollout, exit_status: bool) -> None:
    if exit_status and rollout.outcome not in _GOOD:
        raise typer.Exit(exits.FAILED)


def show_(options: OneOptions) -> None:
    """Show the state of a rollout and its evidence."""
    with options.client() as client:
        found = client.rollouts.get(options.endpoint, options.id)
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    show(found, details(found, width), as_json=options.json)


def list_(options: RemoteOptions) -> None:
    """List the rollouts in progress."""
    with options.client() as client:
        found = client.rollouts.in_progress()
    show(found, list_table(found) if found else "no rollout is in progress", as_json=options.json)


def history(options: HistoryOptions) -> None:
    """List an endpoint's past rollouts with outcome and reason."""
    with options.client() as client:
        found = client.rollouts.history(options.endpoint, options.last)
    told = history_table(found) if found else f"endpoint {options.endpoint} never had a rollout"
    show(found, told, as_json=options.json)


def _verb(name: str, help_: str) -> Callable[[OneOptions], None]:
    def tell(options: OneOptions) -> None:
        with options.client() as client:
            answer = getattr(client.rollouts, name)(options.endpoint, options.id)
        told = summary(answer) if answer.done else f"nothing was done: {answer.refused}"
        show(answer, f"{options.endpoint}: {told}", as_json=options.json)

    tell.__doc__ = help_
    tell.__name__ = name
    return tell


_VERBS = {
    "pause": "Pause a rollout at its step. A version that is worse is still rolled back.",
    "resume": "Resume a paused rollout, or restore a withdrawn share.",
    "approve": "Approve the next step, where the plan requires approval.",
    "promote": "Promote the version to all traffic without further evidence.",
    "abort": "Abort a rollout and return to the stable version.",
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    verbs = group(app, "rollout", "Roll out versions step by step, judged by evidence.")
    command(verbs, "start")(start)
    command(verbs, "watch")(watch)
    command(verbs, "show")(show_)
    command(verbs, "list")(list_)
    command(verbs, "history")(history)
    for name, help_ in _VERBS.items():
        command(verbs, name)(_verb(name, help_))
