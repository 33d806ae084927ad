"""What becomes of a connection that is given up: nothing that has not been sent of it may go out later."""

from __future__ import annotations

import socket
import struct
from typing import Any


def discard_unsent(sock: Any, yes: bool = True) -> None:
    """Have a close of ``sock``, or the end of this process, throw away what has not been sent, or not.

    The kernel would go on sending it by itself for minutes, to a server that takes the mail when somebody may
    have decided already that it was not sent.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", int(yes), 0))
    except OSError:
        pass  # closed already
