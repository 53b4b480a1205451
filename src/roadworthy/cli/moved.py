"""Commands and flags of earlier releases that have another name now: an error that names the new one."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

_MOVED = {
    "list": "version list",
    "list versions": "version list",
    "list models": "model list",
    "list endpoints": "endpoint list",
    "keys": "key",
    "keys list": "key list",
    "keys create": "key create",
    "keys revoke": "key revoke",
    "keys recover": "key recover",
}
_MOVED_FLAGS = {("rollout start", "--guards"): "rollout start --criteria"}
_HELP = ("-h", "--help")


def moved(arguments: list[str]) -> tuple[str, str] | None:
    """The old form that these arguments begin with and the new form, or None when they begin with no old form."""
    words = [word for word in arguments if not word.startswith("-")]
    if words == ["version"] and not any(flag in arguments for flag in _HELP):
        return "version", "--version"
    flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    for (command, flag), new in _MOVED_FLAGS.items():
        if command == " ".join(words[:2]) and flag in flags:
            return f"{command} {flag}", new
    for old in (" ".join(words[:2]), *words[:1]):
        if old in _MOVED:
            return old, _MOVED[old]
    return None


class Commands(TyperGroup):
    """All commands. An old form is a usage error."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments name."""
        found = None if ctx.resilient_parsing else moved(args)  # the shell's completion asks without an error
        if found is not None:
            ctx.fail(f"`roadworthy {found[0]}` is now `roadworthy {found[1]}`.")
        return super().resolve_command(ctx, args)
