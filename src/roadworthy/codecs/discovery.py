"""The codecs that this process has: the plug-ins of the kind "codecs". They import a library such as pyarrow with
the first body."""

from __future__ import annotations

from roadworthy.codecs.codec import Codec, Form
from roadworthy.foundation.plugins import CODECS, plugins

_USUAL = "json"


def codecs() -> tuple[Codec, ...]:
    """Every codec, the usual one first."""
    found = plugins(CODECS)
    return tuple(found[name] for name in sorted(found, key=lambda name: name != _USUAL))


def forms() -> tuple[Form, ...]:
    """The forms of answers besides JSON, one for each codec that has one."""
    return tuple(codec.form for codec in codecs() if codec.form is not None)
