"""SO_LINGER: closing a socket discards its unsent bytes, so that no mail leaves after its deadline."""

from __future__ import annotations

import socket
import struct


def discard_unsent(sock: socket.socket, yes: bool = True) -> None:
    """Have a close of ``sock``, or the end of this process, discard the bytes that have not been sent, or not.

    The kernel would go on sending them by itself for minutes, to a server that takes the mail when somebody may
    have decided already that it was not sent.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", int(yes), 0))
    except OSError:
        pass  # closed already
