"""Connections that are given up: nothing of a mail goes out by itself when others may have decided about it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask

app = Celery("given-up", broker="memory://", backend="cache+memory://", set_as_current=False)
TO_DATA = (b"220 hi", b"250 hi", b"250 ok", b"250 ok", b"354 go")


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="given-up", send_timeout=0.4, max_retries=0)
def send(n: int) -> str:
    EmailMessage("Hi", ("x" * 70 + "\n") * 2000, to=["ann@example.com"]).send()
    return "sent"


class LateReader:
    """Asks for the payload, and reads it once it is told to."""

    def __init__(self) -> None:
        self.may_read = threading.Event()
        self.data = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            for reply in TO_DATA:
                connection.sendall(reply + b"\r\n")
                if reply is not TO_DATA[-1]:
                    connection.recv(1000)
            self.may_read.wait(20)
            try:
                while piece := connection.recv(1 << 16):
                    self.data += piece
            except ConnectionResetError:
                pass

    @contextmanager
    def running(self) -> Iterator[LateReader]:
        self._thread.start()
        try:
            yield self
        finally:
            self.read()
            self._listener.close()

    def read(self) -> bytes:
        """Read what there is, to the end of the connection."""
        self.may_read.set()
        self._thread.join(20)
        return self.data


@pytest.mark.usefixtures("memory_ledger", "tracked")
def test_a_server_that_reads_after_the_deadline_gets_no_dot(settings: Any) -> None:
    """The kernel has payload and dot by then, and would hand them over by itself: it throws them away."""
    with LateReader().running() as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(send.apply((1,)).result, DeliveryInDoubt)
        assert not server.read().endswith(b"\r\n.\r\n")
    assert server.data, "it had begun"
