"""Commands as functions of one frozen options object. `command` registers them; Typer reads the object's fields.

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

from roadworthy.foundation.plugins import allow
from roadworthy.settings import Settings, load_settings

O = TypeVar("O")  # noqa: E741 - the options of one command
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Sets:
    """Annotation of a field whose flag sets the setting `group.name`."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every command."""

    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False
    home: Annotated[
        Path | None, typer.Option("--home", help="Use this home folder instead of ~/.roadworthy."), Sets("general.home")
    ] = None

    @property
    def settings(self) -> Settings:
        """All settings; this command's flags take precedence."""
        flags = {}
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            flags.update({part.name: getattr(self, name) for part in get_args(hint) if isinstance(part, Sets)})
        return load_settings(flags)

    def allow_plugins(self) -> None:
        """Let this process load the plug-ins that the settings name."""
        allow(self.settings.general.plugins)


@dataclass(frozen=True, kw_only=True)
class RemoteOptions(Options):
    """Options of every command that calls the control plane."""

    control_url: Annotated[
        str | None,
        typer.Option("--control-url", help="Use the control plane at this address."),
        Sets("client.control_url"),
    ] = None


def command(
    app: typer.Typer, name: str, *, hidden: bool = False
) -> Callable[[Callable[[O], None]], Callable[[O], None]]:
    """Register a function that takes one options object. Its docstring is the help text."""

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
    """The command's own options first, then the shared ones, in the order of the help."""
    shared = {entry.name for entry in dataclasses.fields(RemoteOptions)}
    entries = list(dataclasses.fields(kind))
    return [entry for entry in entries if entry.name not in shared] + [
        entry for entry in entries if entry.name in shared
    ]
