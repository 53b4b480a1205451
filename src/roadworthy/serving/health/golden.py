"""Reads a few golden examples of a package on disk, for `golden_probe.py` to send and compare.

A version that runs in runner processes has no package in the worker, so the examples come from the package's folder. Only its
manifest and the two golden files are opened, and checked against the digest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from roadworthy.foundation.errors import PackageInvalid, RoadworthyError
from roadworthy.runtime.loading import package_folder
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch
from roadworthy.schema.rows import encode_rows

if TYPE_CHECKING:
    from roadworthy.optimize.equal import Tolerance
    from roadworthy.schema.signature import Signature

MOST_EXAMPLES = 8
_MOST_BODY_BYTES = 64 << 10
"""A probe does not read a larger example as JSON, which would hold the event loop; it submits the example's rows directly."""


class ProbeCodec(Protocol):
    """Reads a request and writes its answer as the edge does, so that a probe takes the same path as a caller."""

    def read(self, body: bytes) -> Batch:
        """The rows of a body.

        Raises:
            RoadworthyError: they cannot be read.
        """
        ...

    def write(self, answer: Answer, version: int) -> bytes:
        """The answer of registry version `version` as a body.

        Raises:
            ModelFault: the answer has no exact form.
        """
        ...


CodecOf = Callable[["Signature"], ProbeCodec]


@dataclass(frozen=True, slots=True)
class Example:
    """One row. `body` is the JSON that a caller would send for it; None when it has no exact JSON, or a large one."""

    inputs: Batch
    expected: Batch
    tolerance: Tolerance
    body: bytes | None

    def difference(self, answer: Answer) -> str | None:
        """How the answer differs from the expected one, in words; None when it does not."""
        from roadworthy.optimize.equal import compare

        found = compare(self.expected, answer.batch(), self.tolerance)
        return None if found is None else str(found)


class Examples:
    """The examples of one package, in rotation. `codec`, which takes milliseconds to make, reads and writes their bodies."""

    def __init__(self, codec: ProbeCodec, examples: Sequence[Example]) -> None:
        self.codec = codec
        self._examples = examples
        self._next = 0

    def next(self) -> Example:
        """The next example; after the last comes the first."""
        example = self._examples[self._next % len(self._examples)]
        self._next += 1
        return example


def read_examples(folder: Path, digest: str, codec_of: CodecOf) -> Examples:
    """Up to MOST_EXAMPLES rows, spread over all golden examples of the package below the gateway's `folder`.

    Raises:
        PackageInvalid: the package is missing, is another one, or is damaged.
        OSError: a file cannot be read.
    """
    from roadworthy.optimize.equal import Tolerance
    from roadworthy.package.files import FolderFiles
    from roadworthy.package.manifest import MANIFEST, read_manifest
    from roadworthy.package.package import Package

    place = package_folder(folder, digest)
    manifest = read_manifest((place / MANIFEST).read_bytes())
    package = Package(place, manifest, {}, FolderFiles(place))
    if package.digest != digest:
        raise PackageInvalid(f"the package on disk has the digest {package.digest}, expected {digest}", code="package-damaged")
    examples = package.examples()
    tolerance = Tolerance(rtol=float(manifest.tolerance.relative), atol=float(manifest.tolerance.absolute))
    rows = [examples[row] for row in sorted({len(examples) * number // MOST_EXAMPLES for number in range(MOST_EXAMPLES)})]
    codec = codec_of(package.signature)
    return Examples(codec, [Example(sent, answer, tolerance, _body(codec, sent)) for sent, answer in rows])


def _body(codec: ProbeCodec, row: Batch) -> bytes | None:
    """The row as a caller would send it; None if it is not read back as the same row."""
    from roadworthy.optimize.equal import Tolerance, compare

    try:
        body = msgspec.json.encode({"instances": encode_rows(row)})
        if len(body) > _MOST_BODY_BYTES:
            return None
        again = codec.read(body)
    except (RoadworthyError, ValueError, TypeError):
        return None
    return body if compare(row, again, Tolerance(0.0, 0.0)) is None else None
