"""What a Redis holds, as somebody sees it who has got at the server: every value, and what is encoded in it."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

_ENCODED = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
TOKEN = re.compile(rb"gAAAA[A-Za-z0-9_-]{40,}={0,2}")
"""What Fernet makes: version 0x80 and a time, in URL-safe base64."""


def dump(connected: Any) -> bytes:
    """Return all names and values of the Redis behind ``connected``."""
    read = {
        b"string": connected.get,
        b"hash": connected.hgetall,
        b"set": connected.smembers,
        b"zset": lambda name: connected.zrange(name, 0, -1, withscores=True),
        b"list": lambda name: connected.lrange(name, 0, -1),
    }
    found = []
    for name in connected.scan_iter():
        kind = connected.type(name)
        value = b"" if kind == b"none" else read[kind](name)  # none: it expired meanwhile
        found += [name, value if isinstance(value, bytes) else repr(value).encode()]
    return b"\n".join(found)


def shows(text: bytes, secret: str) -> bool:
    """Tell whether ``secret`` stands in ``text``, as it is or in one of its base64 runs."""
    wanted = secret.encode().lower()
    return any(wanted in part.lower() for part in (text, *_decoded(text)))


def _decoded(text: bytes) -> list[bytes]:
    parts = []
    for run in _ENCODED.findall(text):
        plain = run.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        try:
            parts.append(base64.b64decode(plain + b"=" * (-len(plain) % 4)))
        except binascii.Error:
            continue
    return parts
