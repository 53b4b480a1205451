"""A process of callers that send one body repeatedly, each on its own connection, until standard input ends."""

from __future__ import annotations

import http.client
import os
import sys
import threading
import time
from pathlib import Path


def send(port: int, path: str, headers: dict[str, str], body: bytes) -> None:
    """Send requests for ever; reconnect when the connection ends."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
        try:
            while True:
                connection.request("POST", path, body, headers)
                connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            time.sleep(0.01)
        finally:
            connection.close()


def main() -> None:
    """Arguments: port, path, content type, file with the body, number of callers. The first line of standard input is the key."""
    port, path, kind, file, count = sys.argv[1:]
    headers = {"Authorization": f"Bearer {sys.stdin.readline().strip()}", "Content-Type": kind}
    body = Path(file).read_bytes()
    for _ in range(int(count)):
        threading.Thread(target=send, args=(int(port), path, headers, body), daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
