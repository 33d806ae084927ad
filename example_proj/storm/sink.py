"""A mail server for the demo: writes down what it takes, and puts some recipients off at first.

Usage: python -m storm.sink FILE. Prints its port, then serves until it is told to end.
"""

from __future__ import annotations

import email
import json
import re
import socket
import sys
from typing import Any

from aiosmtpd.controller import Controller

DEFER_EVERY = 12


class Sink:
    """Appends one JSON line per accepted mail before it says 250."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.offered = 0

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        """Refuse every twelfth recipient for now."""
        self.offered += 1
        if self.offered % DEFER_EVERY == 0:
            return "450 4.3.2 busy, try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Take the mail."""
        message = email.message_from_bytes(envelope.content)
        tag = re.match(r"\[(.+?)\]", str(message["Subject"]))
        row = {"tag": tag.group(1) if tag else "", "message_id": message["Message-ID"], "to": envelope.rcpt_tos}
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        return "250 2.0.0 taken"


def main(path: str) -> None:
    """Serve until standard input closes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(Sink(path), hostname="127.0.0.1", port=port)
    controller.start()
    print(port, flush=True)
    sys.stdin.read()
    controller.stop()


if __name__ == "__main__":
    main(sys.argv[1])
