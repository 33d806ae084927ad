"""A scripted SMTP server: every step of RFC 5321 can be answered, delayed, held or cut.

In a test: ``with ScriptedSMTP(dot=DROP_AFTER_ACCEPT) as server``.
"""

from __future__ import annotations

import email
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

DROP = "DROP"
"""Close the connection instead of answering."""
DROP_AFTER_ACCEPT = "DROP_AFTER_ACCEPT"
"""Take the mail and close the connection without a reply."""
STALL = "STALL"
"""Say nothing until the client hangs up."""
TRICKLE = "TRICKLE"
"""Send a digit now and then, and never a line."""


class Taking(str):
    """A reply to the payload by a server that has taken the mail, whatever the reply looks like."""


class NotTaking(str):
    """A reply to the payload by a server that has not taken the mail, whatever the reply looks like."""


DEFAULTS = {
    "banner": "220 test ESMTP",
    "ehlo": "250-test\r\n250-SIZE 50000000\r\n250 8BITMIME",
    "mail": "250 ok",
    "rcpt": "250 ok",
    "data": "354 go ahead",
    "dot": "250 queued",
    "rset": "250 ok",
    "noop": "250 ok",
    "quit": "221 bye",
}
Answer = str | list[str] | Callable[[str], str]
"""What to say; several are one per call, the last one for ever. One that ends in ``\\0`` gets no line end."""


def by_name(**answers: str) -> Callable[[str], str]:
    """Return what answers RCPT by a word in the address; whoever is not named is taken."""
    return lambda line: next((answer for name, answer in answers.items() if name in line), "250 ok")


@dataclass
class Received:
    """A message that the server took responsibility for."""

    sender: str
    recipients: list[str]
    data: bytes
    at: float = field(default_factory=time.time)

    @property
    def message_id(self) -> str:
        return str(email.message_from_bytes(self.data)["Message-ID"])

    @property
    def headers(self) -> Any:
        return email.message_from_bytes(self.data)


class ScriptedSMTP:
    """Serves on a free port of 127.0.0.1. ``script`` maps a step to its answer, or to one per call."""

    def __init__(
        self, *, payload_limit: int | None = None, port: int = 0, on_accept: Any = None, **script: Answer
    ):
        self.script: dict[str, Answer] = {**DEFAULTS, **script}
        self._at_first = dict(self.script), payload_limit
        self.payload_limit = payload_limit
        self.accepted: list[Received] = []
        self.commands: list[str] = []
        self.partial: list[bytes] = []
        self.connections = 0
        self._calls: Counter[str] = Counter()
        self._held: dict[str, threading.Event] = {}
        self._reached: Counter[str] = Counter()
        self._change = threading.Condition()
        self._on_accept = on_accept
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]

    def __enter__(self) -> ScriptedSMTP:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for event in self._held.values():
            event.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # else the thread that accepts would wait for ever
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    # -- for tests ---------------------------------------------------------------------------------------

    def hold(self, step: str) -> None:
        """Make the server wait at ``step`` until `release`."""
        self._held[step] = threading.Event()

    def release(self, step: str) -> None:
        """Let a held step go on."""
        self._held.pop(step).set()

    def reached(self, step: str, times: int = 1, timeout: float = 20) -> None:
        """Wait until ``step`` was reached."""
        with self._change:
            assert self._change.wait_for(lambda: self._reached[step] >= times, timeout), f"never at {step}"

    def count(self, step: str) -> int:
        """Return how often ``step`` was reached so far."""
        return self._reached[step]

    def reset(self) -> None:
        """Be as at first, whatever a test has left: nothing held or accepted, the script as given."""
        for step in list(self._held):
            self.release(step)
        script, self.payload_limit = self._at_first
        self.script = dict(script)
        self.forget_calls()
        self.accepted.clear()
        self.partial.clear()

    def forget_calls(self) -> None:
        """Start the answers that are given one per call from their first again."""
        self._calls.clear()

    # -- the conversation --------------------------------------------------------------------------------

    def _answer(self, step: str, argument: str = "") -> str:
        with self._change:
            self._reached[step] += 1
            call = self._calls[step]
            self._calls[step] += 1
            self._change.notify_all()
        if step in self._held:
            self._held[step].wait(30)
        answer = self.script.get(step, "502 not implemented")
        if isinstance(answer, list):
            answer = answer[min(call, len(answer) - 1)]
        return answer(argument) if callable(answer) else answer

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                self._session(connection, stream)
        except OSError:
            pass

    def _say(self, connection: socket.socket, answer: str) -> bool:
        if answer in (STALL, TRICKLE):
            return self._linger(connection, answer == TRICKLE)
        if answer == DROP:
            return False
        unended = answer.endswith("\0")
        connection.sendall(answer.rstrip("\0").encode() + (b"" if unended else b"\r\n"))
        return not answer.startswith("421") and not unended

    def _linger(self, connection: socket.socket, trickle: bool) -> bool:
        connection.settimeout(0.02)
        while True:
            try:
                if not connection.recv(1):
                    return False
            except TimeoutError:
                if trickle:
                    connection.sendall(b"2")

    def _session(self, connection: socket.socket, stream: Any) -> None:
        if not self._say(connection, self._answer("banner")):
            return
        sender, recipients = "", []
        for raw in stream:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            self.commands.append(line)
            verb = line.split(" ")[0].split(":")[0].lower()
            answer = self._answer("ehlo" if verb == "helo" else verb, line)
            if not self._say(connection, answer) or verb == "quit":
                return
            good = answer.startswith(("2", "3"))
            if verb == "mail":
                sender, recipients = line, []
            elif verb == "rcpt" and good:
                recipients.append(line.split("<", 1)[1].rsplit(">", 1)[0])
            elif verb == "data" and good and not self._take(connection, stream, sender, recipients):
                return

    def _take(self, connection: socket.socket, stream: Any, sender: str, recipients: list[str]) -> bool:
        data = self._read_payload(stream)
        if data is None:
            return False
        answer = self._answer("dot")
        taken = answer.startswith("25") or isinstance(answer, Taking) or answer == DROP_AFTER_ACCEPT
        if taken and not isinstance(answer, NotTaking):
            received = Received(sender, list(recipients), data)
            self.accepted.append(received)
            if self._on_accept:
                self._on_accept(received)
        if answer == DROP_AFTER_ACCEPT:
            return False
        return self._say(connection, answer)

    def _read_payload(self, stream: Any) -> bytes | None:
        """Return what came before the final dot; None, and a part on record, if the dot did not come."""
        data = bytearray()
        for raw in stream:
            if raw == b".\r\n":
                return bytes(data)
            data += raw[1:] if raw.startswith(b".") else raw
            if self.payload_limit is not None and len(data) > self.payload_limit:
                break
        self.partial.append(bytes(data))
        return None
