"""A push killed at any step leaves the registry unchanged or with the complete version, and can be repeated."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from roadworthy.access.principal import Principal
from roadworthy.control.resources import packages
from roadworthy.control.wiring import build_context
from roadworthy.foundation.canonical import digest_file
from roadworthy.foundation.references import VersionReference
from tests.defaults import control_document
from tests.waiting import DEADLINE_S
from tests.warm import nursery
from tests.warm_up import MODULES

_KILLED_PUSH = """
import json, os, signal, sys
from pathlib import Path
from roadworthy.access.principal import Principal
from roadworthy.control.resources import packages
from roadworthy.control.wiring import build_context
from roadworthy.store import blobs
step, document, file = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
plane = build_context(document)
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
if step == "write": Path.hardlink_to = die
if step == "fsync": blobs.os.fsync = die
if step == "rename": Path.replace = die
if step == "fsync-folder": blobs.fsync_folder = die
if step == "register": packages._register = die
if step == "audit": type(plane).audit = die
if step == "committed": type(plane.publisher).refresh = die
packages.push(plane, file, Principal("key-a", "key-a", "admin", frozenset()), packages.Allowed())
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small package without code."""
    from onnx import TensorProto, helper

    from roadworthy.package.packing.pack import pack

    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "same",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return pack(model, name="same", inputs=np.arange(8.0).reshape(4, 2), out=tmp_path_factory.mktemp("dist")).path


@pytest.mark.parametrize(
    ("step", "new"),
    [
        ("write", False),
        ("fsync", False),
        ("rename", False),
        ("fsync-folder", False),
        ("register", False),
        ("audit", False),
        ("committed", True),
    ],
)
def test_d9_a_killed_push_shows_old_or_new_never_half(tmp_path: Path, packed: Path, step: str, new: bool) -> None:
    """D9: a version is listed exactly if its bytes and its audit entry exist; remains are deleted; a second push works."""
    document = control_document(tmp_path)
    command = ["-c", _KILLED_PUSH, step, json.dumps(document), packed]
    done = nursery(*MODULES).run(command, timeout=4 * DEADLINE_S, cwd=tmp_path, env=os.environ)
    assert done.returncode == -9
    plane = build_context(document)
    assert [path.name for path in (tmp_path / "blobs").rglob(".tmp-*")] == []
    listed = packages.list_versions(plane, "same", 0).items
    assert len(listed) == new
    document, fresh = packages.push(plane, packed, Principal("key-a", "key-a", "admin", frozenset()), packages.Allowed())
    assert (document.version, fresh) == (1, not new)
    with packages.open_version(plane, VersionReference("same", 1)) as handle:
        assert digest_file(Path(handle.name)) == digest_file(packed)
    plane.database.close()
