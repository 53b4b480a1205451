"""Commands as functions of one frozen options object. `command` registers them; Typer reads the object's fields.

@dataclass(frozen=True, kw_only=True)
class ListOptions(RemoteOptions):
    model: str | None = option("--model", "List only versions of this model.")

@command(app, "list")
def list_(options: ListOptions) -> None: ...
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from roadworthy.foundation.plugins import allow
from roadworthy.settings import Settings, load_settings

if TYPE_CHECKING:
    from roadworthy.client import Client

O = TypeVar("O")  # noqa: E741 - the options of one command
REQUIRED: Any = MISSING
"""The default of an option without one."""


def option(flags: str, help_: str, default: Any = None, *, sets: str = "", **more: Any) -> Any:
    """A field of an options object: `flags`, such as "--file -f", and the help text.

    Args:
        sets: the setting `group.name` that the flag sets.
        more: further arguments of `typer.Option`.
    """
    parameter = typer.Option(*flags.split(), help=help_, **more)
    return dataclasses.field(default=default, metadata={"parameter": parameter, "sets": sets})


def argument(metavar: str, help_: str, default: Any = REQUIRED) -> Any:
    """A field of an options object that the command line names by its place."""
    return dataclasses.field(default=default, metadata={"parameter": typer.Argument(metavar=metavar, help=help_)})


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every command."""

    json: bool = option("--json", "Print the result as JSON.", False)
    home: Path | None = option("--home", "Use this home folder instead of ~/.roadworthy.", sets="general.home")

    @property
    def settings(self) -> Settings:
        """All settings; this command's flags take precedence."""
        return load_settings(
            {
                entry.metadata["sets"]: getattr(self, entry.name)
                for entry in dataclasses.fields(self)
                if entry.metadata.get("sets")
            }
        )

    def allow_plugins(self) -> None:
        """Let this process load the plug-ins that the settings name."""
        allow(self.settings.general.plugins)


@dataclass(frozen=True, kw_only=True)
class RemoteOptions(Options):
    """Options of every command that calls the control plane."""

    control_url: str | None = option("--control-url", "Use the control plane at this address.", sets="client.control_url")

    def client(self) -> Client:
        """A client of the gateway and the control plane that the settings name."""
        from roadworthy.client import Client

        return Client.from_settings(self.settings.client)


def group(app: typer.Typer, name: str, help_: str) -> typer.Typer:
    """Add a noun, such as `rollout`, whose commands are verbs."""
    made = typer.Typer(help=help_, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(made, name=name)
    return made


def command(app: typer.Typer, name: str) -> Callable[[Callable[[O], None]], Callable[[O], None]]:
    """Register a function that takes one options object. Its docstring is the help text."""

    def register(function: Callable[[O], None]) -> Callable[[O], None]:
        (kind,) = (hint for key, hint in get_type_hints(function).items() if key != "return")
        app.command(name, help=inspect.getdoc(function))(_spread(function, kind))
        return function

    return register


def _spread(function: Callable[[Any], None], kind: type[Any]) -> Callable[..., None]:
    def call(**values: Any) -> None:
        function(kind(**values))

    hints = get_type_hints(kind)
    parameters = [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if entry.default is MISSING else entry.default,
            annotation=Annotated[hints[entry.name], entry.metadata["parameter"]],
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
    return sorted(dataclasses.fields(kind), key=lambda entry: entry.name in shared)
