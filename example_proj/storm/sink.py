"""A mail server that keeps nothing but a record: one JSON line for every message that it takes.

``python sink.py FILE SEED`` prints its port and serves until it is terminated. About every twelfth recipient
is refused for now (450), as a busy server would.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP

REFUSED = 1 / 12
SLOWNESS = 0.01


class Witness:
    """Answers for the server (the names are aiosmtpd's) and writes down what it took."""

    def __init__(self, file: Path, seed: int) -> None:
        self._file = file.open("a", encoding="utf-8")
        self._random = random.Random(seed)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        """Take a recipient, or refuse it for now."""
        if self._random.random() < REFUSED:
            return "450 4.2.1 Try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Take a message. Once it is written down it is delivered, whether the reply arrives or not."""
        await asyncio.sleep(self._random.random() * SLOWNESS)
        mail = message_from_bytes(envelope.content, policy=default)
        row = {"id": mail["Message-ID"], "subject": mail["Subject"], "to": envelope.rcpt_tos}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        await asyncio.sleep(self._random.random() * SLOWNESS)
        return "250 OK"


async def serve(file: Path, seed: int) -> None:
    """Serve on a free port of 127.0.0.1, for ever."""
    observer = Witness(file, seed)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(observer, hostname="sink", loop=loop), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
