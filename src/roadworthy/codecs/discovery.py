"""The codecs that this process has: the plug-ins of the kind "codecs". They import a library such as pyarrow with
the first body."""

from __future__ import annotations

from roadworthy.codecs.codec import Codec, Form
from roadworthy.foundation.plugins import CODECS, plugins

_ORDER = ("json", "csv", "arrow-stream", "arrow-file")
"""Of equally preferred answer forms the first is taken: ours in this order, then those of plug-ins."""


def codecs() -> tuple[Codec, ...]:
    """Every codec, the usual one first."""
    found = plugins(CODECS)
    return tuple(found[name] for name in sorted(found, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)))


def forms() -> tuple[Form, ...]:
    """The forms of answers besides JSON, one for each codec that has one."""
    return tuple(codec.form for codec in codecs() if codec.form is not None)
