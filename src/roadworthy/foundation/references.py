"""Parses the names that people type, by allow-list: `flights`, `flights:3`, `sha256:…`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from roadworthy.foundation.errors import InvalidRequest

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))})


def check_name(text: str, kind: str = "name") -> str:
    """Return `text` if it is a valid name: 1 to 64 of a-z, 0-9, '.', '_', '-', first and last a letter or a digit.

    Raises:
        InvalidRequest: code "invalid-name".
    """
    if not _NAME.fullmatch(text) or ".." in text or text.split(".", maxsplit=1)[0] in _RESERVED:
        raise InvalidRequest(
            f"invalid {kind}",
            code="invalid-name",
            hint="use 1 to 64 of a-z, 0-9, '.', '_' and '-', and begin and end with a letter or a digit",
            facts={"kind": kind},
        )
    return text


def check_digest(text: str) -> str:
    """Return `text` if it is a full digest: `sha256:` and 64 hex digits.

    Raises:
        InvalidRequest: code "invalid-digest".
    """
    if not _DIGEST.fullmatch(text):
        raise InvalidRequest(
            "not a package digest",
            code="invalid-digest",
            hint="write sha256: and 64 hexadecimal digits, as `roadworthy version list` prints them",
        )
    return text


@dataclass(frozen=True, slots=True, order=True)
class VersionReference:
    """A model's name and a version number, written `flights:3`."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    @classmethod
    def parse(cls, text: str) -> VersionReference:
        """Read `name:number`.

        Raises:
            InvalidRequest: code "invalid-reference" or "invalid-name".
        """
        name, colon, number = text.partition(":")
        if not colon or not number.isascii() or not number.isdigit() or len(number) > 9 or int(number) < 1:
            raise InvalidRequest(
                "not a model version",
                code="invalid-reference",
                hint="write the model's name, a colon and the version number, like flights:3",
            )
        return cls(check_name(name, "model name"), int(number))
