"""Packages as an attacker could write them: unpacked, changed and sealed again without the product's own code."""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from pathlib import Path
from typing import Any


def take_apart(package: Path, folder: Path) -> dict[str, Any]:
    """Unpack the file at `package` into `folder` without its attestations; return its manifest."""
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if not name.startswith("attestations/")])
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return manifest


def seal(folder: Path, manifest: dict[str, Any]) -> str:
    """Write a manifest that lists every file in `folder` with the right hash; return its digest in hexadecimal."""
    (folder / "manifest.json").unlink(missing_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest["files"] = sorted(
        (
            {
                "path": path.relative_to(folder).as_posix(),
                "sha256": f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
                "size": path.stat().st_size,
            }
            for path in files
        ),
        key=lambda entry: entry["path"],
    )
    document = json.dumps(manifest, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    (folder / "manifest.json").write_bytes(document)
    return hashlib.sha256(document).hexdigest()


def put_together(folder: Path, target: Path) -> Path:
    """Write the files of `folder` as one package file."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), (1980, 1, 1, 0, 0, 0))
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, path.read_bytes())
    return target
