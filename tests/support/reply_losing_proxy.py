"""A line between client and mail server that loses the reply to the payload."""

from __future__ import annotations

import socket
import threading


class LosingProxy:
    """Forwards one connection; once the final dot was answered, it hangs up on the client instead."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._behind = port
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> LosingProxy:
        self._thread = threading.Thread(target=self._forward, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(20)
        self._listener.close()

    def _forward(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._behind), 10)
        client.settimeout(10)
        with client, server:
            client.sendall(server.recv(4096))
            sent = b""
            while not sent.endswith(b"\r\n.\r\n"):
                said = client.recv(65536)
                server.sendall(said)
                sent += said
                if said.endswith(b"\r\n") and not _in_payload(sent):
                    client.sendall(server.recv(4096))
            assert server.recv(4096).startswith(b"250"), "the server has it"


def _in_payload(sent: bytes) -> bool:
    _, found, payload = sent.lower().partition(b"\r\ndata\r\n")
    return bool(found and payload)
