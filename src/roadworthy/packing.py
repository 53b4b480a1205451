"""`rw.pack`: packaging a model in the user's own process, which may load the plug-ins that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from roadworthy.foundation.plugins import allow
from roadworthy.package.packing.pack import pack as _pack
from roadworthy.settings import load_settings

P = ParamSpec("P")
T = TypeVar("T")


def _with_plugins(function: Callable[P, T]) -> Callable[P, T]:
    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        allow(load_settings().general.plugins)
        return function(*arguments, **options)

    return call


pack = _with_plugins(_pack)
