"""Mail providers with idempotency keys, as an SMTP server and as an HTTP API, on a free port of 127.0.0.1."""

from __future__ import annotations

import email
import socket
from typing import Any

from tests.support.mailserver import DROP_AFTER_ACCEPT, Received, ScriptedSMTP


class KeyedSMTP(ScriptedSMTP):
    """Takes a message once for each value of ``header``, and refuses other content under a known one.

    ``dot`` is scripted as ever: `DROP_AFTER_ACCEPT` takes the message, if it is new, and says nothing.
    """

    def __init__(self, header: str = "Resend-Idempotency-Key", **script: Any) -> None:
        super().__init__(**script)
        self.header = header
        self.known: dict[str, bytes] = {}
        self.keys: list[str | None] = []
        self.mismatches = 0

    def _take(self, connection: socket.socket, stream: Any, sender: str, recipients: list[str]) -> bool:
        lines = list(iter(stream.readline, b".\r\n"))
        data = b"".join(line[1:] if line.startswith(b".") else line for line in lines)
        key = email.message_from_bytes(data)[self.header]
        self.keys.append(key)
        answer = self._answer("dot")
        if key is not None and self.known.get(key, data) != data:
            self.mismatches += 1
            return self._say(connection, "550 5.7.0 this key was used for another message")
        if answer.startswith("250") or answer == DROP_AFTER_ACCEPT:
            if key is None or key not in self.known:
                self.accepted.append(Received(sender, list(recipients), data))
            if key is not None:
                self.known[key] = data
        return False if answer == DROP_AFTER_ACCEPT else self._say(connection, answer)
