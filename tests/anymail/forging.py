"""What somebody can do to a genuine webhook who has not got its key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Headers = dict[str, str]
Forgery = Callable[[bytes, Headers], tuple[bytes, Headers]]


def without(headers: Headers, word: str) -> Headers:
    return {name: value for name, value in headers.items() if word not in name.lower()}


def changed(headers: Headers, word: str, value: str | Callable[[str], str]) -> Headers:
    assert any(word in name.lower() for name in headers)
    return {name: _new(old, value) if word in name.lower() else old for name, old in headers.items()}


def later(stamp: str) -> str:
    return str(int(stamp) + 60)


def _block(body: bytes, **changes: Any) -> bytes:
    """Return Mailgun's body with changes to the block that is its signature; None takes the block out."""
    content = json.loads(body)
    block = content.pop("signature")
    if None not in changes.values():
        content["signature"] = block | {name: _new(block[name], value) for name, value in changes.items()}
    return json.dumps(content).encode()


def _new(old: str, value: str | Callable[[str], str]) -> str:
    return value(old) if callable(value) else value


ANYWHERE: dict[str, Forgery] = {
    "no password": lambda body, headers: (body, without(headers, "authorization")),
    "wrong password": lambda body, headers: (body, changed(headers, "authorization", "Basic dXNlcjp3cm9uZw==")),
    "no basic auth": lambda body, headers: (body, changed(headers, "authorization", "Bearer user:password")),
}
FORGERIES: dict[str, dict[str, Forgery]] = {
    "postmark": {},
    "amazon_ses": {
        "another type": lambda body, headers: (
            body,
            changed(headers, "message-type", "UnsubscribeConfirmation"),
        ),
        "no type": lambda body, headers: (body, without(headers, "message-type")),
        "another id": lambda body, headers: (body, changed(headers, "message-id", "0")),
    },
    "mailgun": {
        "no signature": lambda body, headers: (_block(body, signature=None), headers),
        "made-up signature": lambda body, headers: (_block(body, signature="0" * 64), headers),
        "another time": lambda body, headers: (_block(body, timestamp=later), headers),
        "another token": lambda body, headers: (_block(body, token="b" * 50), headers),
    },
    "sendgrid": {
        "no signature": lambda body, headers: (body, without(headers, "signature")),
        "made-up signature": lambda body, headers: (body, changed(headers, "signature", "c2lnbmF0dXJl")),
        "no base64": lambda body, headers: (body, changed(headers, "signature", "!")),
        "no time": lambda body, headers: (body, without(headers, "timestamp")),
        "another time": lambda body, headers: (body, changed(headers, "timestamp", later)),
        "other content": lambda body, headers: (body.replace(b"delivered", b"dropped"), headers),
        "more content": lambda body, headers: (body + b" ", headers),
    },
    "resend": {
        "no signature": lambda body, headers: (body, without(headers, "signature")),
        "made-up signature": lambda body, headers: (body, changed(headers, "signature", "v1,c2lnbmF0dXJl")),
        "no time": lambda body, headers: (body, without(headers, "timestamp")),
        "another time": lambda body, headers: (body, changed(headers, "timestamp", later)),
        "another id": lambda body, headers: (body, changed(headers, "svix-id", "msg_0")),
        "other content": lambda body, headers: (body.replace(b"email.delivered", b"email.bounced"), headers),
    },
}
