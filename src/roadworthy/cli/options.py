"""Commands as functions of one frozen object. Every group of verbs registers with `command`; Typer sees the object's fields.

@dataclass(frozen=True, kw_only=True)
class ListOptions(RemoteOptions): ...

@command(app, "list")
def list_(options: ListOptions) -> None: ...
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_type_hints

import typer

from roadworthy.settings import Settings, load_settings

O = TypeVar("O")  # noqa: E741 - the options of one command
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Sets:
    """Stands in a field's annotation: the flag gives the setting of that `group.name`."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes."""

    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    home: Annotated[
        Path | None, typer.Option("--home", help="Home folder instead of ~/.roadworthy."), Sets("general.home")
    ] = None

    @property
    def settings(self) -> Settings:
        """All settings, this command's flags foremost."""
        flags = {}
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            flags.update({part.name: getattr(self, name) for part in get_args(hint) if isinstance(part, Sets)})
        return load_settings(flags)


@dataclass(frozen=True, kw_only=True)
class RemoteOptions(Options):
    """What every command takes that asks the control plane."""

    control_url: Annotated[
        str | None, typer.Option("--control-url", help="Address of the control plane."), Sets("client.control_url")
    ] = None


def command(
    app: typer.Typer, name: str, *, hidden: bool = False
) -> Callable[[Callable[[O], None]], Callable[[O], None]]:
    """Register a function of one options object; its docstring is the help."""

    def register(function: Callable[[O], None]) -> Callable[[O], None]:
        (kind,) = (hint for key, hint in get_type_hints(function).items() if key != "return")
        app.command(name, help=inspect.getdoc(function), hidden=hidden)(_spread(function, kind))
        return function

    return register


def _spread(function: Callable[[Any], None], kind: type[Any]) -> Callable[..., None]:
    def call(**values: Any) -> None:
        function(kind(**values))

    hints = get_type_hints(kind, include_extras=True)
    parameters = [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if entry.default is dataclasses.MISSING else entry.default,
            annotation=hints[entry.name],
        )
        for entry in _own_first(kind)
    ]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what Typer reads
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__name__ = function.__name__
    return call


def _own_first(kind: type[Any]) -> list[dataclasses.Field[Any]]:
    """The command's own options before those that all share, as the help should show them."""
    shared = {entry.name for entry in dataclasses.fields(RemoteOptions)}
    entries = list(dataclasses.fields(kind))
    return [entry for entry in entries if entry.name not in shared] + [
        entry for entry in entries if entry.name in shared
    ]
