"""Real nginx servers for tests: in front of a worker, with a configuration from the test."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from bench.ports import free_ports
from tests.waiting import DEADLINE_S, NO_TLS, eventually

MISSING = "needs nginx; on Debian: apt-get install nginx-light"
_AROUND = """
daemon off;
worker_processes 1;
pid {folder}/pid;
{user}
events {{ }}
http {{
access_log off;
client_body_temp_path {folder}/body;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi;
{inside}
}}
"""


class RealNginx:
    """One server, from `start` until `close`.

    Args:
        folder: a private folder.
        inside: the configuration inside `http`, with PORT for the listening port.
    """

    def __init__(self, folder: Path, inside: str) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        user = "user root;" if os.geteuid() == 0 else ""  # otherwise its workers could not enter the tests' folders
        text = _AROUND.format(folder=folder, user=user, inside=inside.replace("PORT", str(port)))
        (folder / "nginx.conf").write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RealNginx:
        """Start it, and wait until it answers."""
        command = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if command is None:
            pytest.fail(MISSING) if os.environ.get("CI") else pytest.skip(MISSING)
        log = self._folder / "error.log"
        self._process = subprocess.Popen([str(command), "-e", str(log), "-c", str(self._folder / "nginx.conf")])
        eventually(self._answers, "nginx answers")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "error.log").read_text()
        try:
            httpx.get(self.url, timeout=DEADLINE_S, verify=NO_TLS)
        except httpx.TransportError:
            return False
        return True

    def close(self) -> None:
        """End it, if it was started."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
