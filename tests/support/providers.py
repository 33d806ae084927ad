"""Mail providers with idempotency keys, as an SMTP server and as an HTTP API, on a free port of 127.0.0.1."""

from __future__ import annotations

import email
import json
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
        data = self._read_payload(stream)
        if data is None:
            return False
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


@dataclass
class Sent:
    """A message that the API took."""

    path: str
    body: Any
    headers: dict[str, str]


class API(ThreadingHTTPServer):
    """Enough of the send APIs of Resend, Brevo, Mailgun, Postmark, SendGrid and Amazon SES, by the path.

    ``script`` has one word for each request, the last one for all others: ``"ok"``; ``"drop_after_accept"`` and
    ``"drop"``, which close the connection without an answer; ``"broken_tls"``, which takes it and sends no TLS
    record; ``"garbage"``, a page of HTML; ``"slow"``, no answer within the client's patience; or an answer,
    ``(status, body, headers)``. With ``tls`` it is at an https URL.
    """

    daemon_threads = True

    def __init__(self, *script: Any, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.script: list[Any] = list(script) or ["ok"]
        self.accepted: list[Sent] = []
        self.requests: list[Sent] = []
        self.known: dict[str, Any] = {}
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_port}/"

    def __enter__(self) -> API:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests."""

    def word(self) -> Any:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    def take(self, sent: Sent) -> tuple[int, Any]:
        """Take a message if it is new to its key, and return the answer."""
        if sent.path == "/email" and not sent.body.get("To"):
            return 422, {"ErrorCode": 300, "Message": "Zero recipients specified"}
        key = sent.headers.get("idempotency-key")
        if isinstance(sent.body, dict):
            key = key or (sent.body.get("headers") or {}).get("idempotencyKey")
        if key is not None and key in self.known:
            if "smtp/email" in sent.path:
                return 400, {"code": "duplicate_parameter", "message": "Duplicate request"}
            if self.known[key] != sent.body:
                return 409, {
                    "statusCode": 409,
                    "name": "invalid_idempotent_request",
                    "message": "other payload",
                }
        else:
            self.accepted.append(sent)
        if key is not None:
            self.known[key] = sent.body
        return self._answer(sent)

    def _answer(self, sent: Sent) -> tuple[int, Any]:
        number = f"id-{len(self.accepted)}"
        if sent.path.endswith("/messages"):
            return 200, {"id": f"<{number}@mg>", "message": "Queued. Thank you."}
        if sent.path == "/email":
            return 200, {"ErrorCode": 0, "Message": "OK", "MessageID": number, "To": sent.body["To"]}
        if sent.path.endswith("mail/send"):
            return 202, ""
        if sent.path.endswith("outbound-emails"):
            return 200, {"MessageId": number}
        if sent.path.endswith("smtp/email"):
            return 201, {"messageId": f"<{number}@brevo>"}
        return 200, {"id": number}


class _Handler(BaseHTTPRequestHandler):
    server: API
    protocol_version = "HTTP/1.1"
    date = ""
    """What the answer's ``Date`` is to say instead of the time."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            body = json.loads(raw)
        except ValueError:
            body = raw.decode("latin-1")
        sent = Sent(self.path, body, {name.lower(): value for name, value in self.headers.items()})
        self.server.requests.append(sent)
        word = self.server.word()
        if isinstance(word, tuple):
            self._say(*word)
        elif word in ("drop", "drop_after_accept"):
            if word == "drop_after_accept":
                self.server.take(sent)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif word == "broken_tls":
            self.server.take(sent)
            self.close_connection = True
            with socket.socket(fileno=self.connection.detach()) as bare:
                bare.sendall(b"no record of TLS")
        elif word == "slow":
            self.server.take(sent)
            time.sleep(5)
        elif word == "garbage":
            self._say(200, "<html>It works!</html>")
        else:
            self._say(*self.server.take(sent))

    def _say(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        headers = {"Content-Type": "application/json", **(headers or {})}
        self.date = headers.pop("Date", "")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.date or super().date_time_string(timestamp)

    def log_message(self, *_: object) -> None:
        """Tests look at `API.requests`."""
