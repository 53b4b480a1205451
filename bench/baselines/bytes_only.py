"""A baseline for the cost of moving bytes: a server that reads a request's bytes, ignores them, and sends an answer's bytes.

Run as `python -m bench.baselines.bytes_only PORT REQUEST_BYTES ANSWER_BYTES`. It serves one connection, then ends.
"""

from __future__ import annotations

import socket
import sys


def main() -> None:
    """Serve one connection."""
    port, request_bytes, answer_bytes = map(int, sys.argv[1:])
    answer, inbox = bytes(answer_bytes), memoryview(bytearray(request_bytes))
    with socket.create_server(("127.0.0.1", port)) as listener:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while True:
                have = 0
                while have < request_bytes:
                    part = connection.recv_into(inbox[have:])
                    if not part:
                        return
                    have += part
                connection.sendall(answer)


if __name__ == "__main__":
    main()
