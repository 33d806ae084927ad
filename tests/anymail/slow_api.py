"""An API on a free port of 127.0.0.1 that reads requests, and writes its answers, as slowly as a test likes."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from math import inf
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BODY = b'{"id": "<1@mg>", "message": "Queued. Thank you.", "MessageId": "1"}'
MEASURED = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
UNMEASURED = HEAD + b"Connection: close\r\n\r\n" + BODY
"""Its end is that of the connection."""
PAUSE = 0.05
"""Seconds between octets: each comes in time, however short the send deadline of a test is."""


class SlowAPI:
    """Sends ``at_once`` octets of ``answer`` before it sends the others one by one.

    Of a request it takes ``reads`` octets at a time; where these are few, it is slow for ``rests`` seconds.
    ``tls`` is the context for an https URL; ``tunnel`` what a proxy answers to CONNECT, octet by octet.
    """

    def __init__(
        self,
        answer: bytes = MEASURED,
        *,
        at_once: int = 0,
        reads: int = 1 << 16,
        rests: float = inf,
        tunnel: bytes = b"",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer, self.at_once, self.reads, self.rests = answer, at_once, reads, rests
        self.tunnel, self.tls = tunnel, tls
        self.requests = 0
        """Requests that were read to their end."""
        self.ended = threading.Event()
        """The client has hung up, or the connection is over."""
        self.over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        if reads < 1000:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}/"

    def __enter__(self) -> SlowAPI:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        try:
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self._converse(connection)
                self.ended.set()
        except OSError:
            self.ended.set()

    def _converse(self, connection: Any) -> None:
        try:
            if self.tunnel:
                connection.recv(1000)
                self._trickle(connection, self.tunnel)
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection:
                while self._read(connection):
                    self.requests += 1
                    connection.sendall(self.answer[: self.at_once])
                    self._trickle(connection, self.answer[self.at_once :])
        except OSError:
            pass

    def _read(self, connection: Any) -> bool:
        """Read a request; return False where the client has hung up before its end."""
        data, missing, began = b"", inf, time.monotonic()
        while missing > 0:
            piece: bytes = connection.recv(self.reads)
            if not piece:
                return False
            if missing < inf:
                missing -= len(piece)
            elif b"\r\n\r\n" in (data := data + piece):
                missing = _length(data) - len(data)
            if time.monotonic() - began > self.rests:
                self.reads = 1 << 16
            elif self.reads < 1000 and self.over.wait(0.02):
                raise ConnectionError("the test is over")
        return True

    def _trickle(self, connection: Any, data: bytes) -> None:
        for octet in data:
            if self.over.wait(PAUSE):
                raise ConnectionError("the test is over")
            connection.sendall(bytes([octet]))


def _length(data: bytes) -> int:
    """Return how long the request is that begins with ``data``."""
    head = data.partition(b"\r\n\r\n")[0]
    found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return len(head) + 4 + (int(found.group(1)) if found else 0)
