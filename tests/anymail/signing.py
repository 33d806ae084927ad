"""The keys of a project's webhooks, and requests that are signed with them as each provider signs its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from datetime import datetime, timezone
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

BASIC = "Basic " + base64.b64encode(b"user:password").decode()
MAILGUN_KEY = "mailgun-signing-key"
RESEND_SECRET = "whsec_" + base64.b64encode(b"resend-signing-secret-of-24-bytes").decode()
_SENDGRID, _STRANGER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
SENDGRID_KEY = base64.b64encode(
    _SENDGRID.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
).decode()
SETTINGS = {
    "WEBHOOK_SECRET": "user:password",
    "MAILGUN_WEBHOOK_SIGNING_KEY": MAILGUN_KEY,
    "RESEND_SIGNING_SECRET": RESEND_SECRET,
    "SENDGRID_TRACKING_WEBHOOK_VERIFICATION_KEY": SENDGRID_KEY,
}
AT = datetime(2026, 3, 1, 12, 0, 5, tzinfo=timezone.utc)
"""When each event happened that these webhooks tell of."""
STAMP = AT.isoformat().replace("+00:00", "Z")
Post = tuple[str, bytes, dict[str, str]]
"""Path, body and headers of a request."""


def sign(name: str, content: Any, age: float = 0.0, stranger: bool = False) -> Post:
    """Return the request that tells ``content``: ``age`` seconds ago, or as a ``stranger`` would sign it."""
    stamp = str(int(time.time() - age))
    body, headers = _SIGNED[name](content, stamp, stranger)
    return name, body, {"Authorization": BASIC, "Content-Type": "application/json", **headers}


_Signed = tuple[bytes, dict[str, str]]


def _mailgun(content: Any, stamp: str, stranger: bool) -> _Signed:
    token = secrets.token_hex(25)
    key = "another-key" if stranger else MAILGUN_KEY
    signature = hmac.new(key.encode(), f"{stamp}{token}".encode(), hashlib.sha256).hexdigest()
    signed = {"timestamp": stamp, "token": token, "signature": signature}
    return json.dumps({"signature": signed, "event-data": content}).encode(), {}


def _postmark(content: Any, stamp: str, stranger: bool) -> _Signed:
    """A password alone."""
    return json.dumps(content).encode(), {"User-Agent": "Postmark"}


def _sendgrid(content: Any, stamp: str, stranger: bool) -> _Signed:
    body = json.dumps(content).encode()
    key = _STRANGER if stranger else _SENDGRID
    signature = key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return body, {
        "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
    }


def _amazon_ses(content: Any, stamp: str, stranger: bool) -> _Signed:
    """What SNS says of itself, whose signature nobody looks at."""
    return json.dumps(content).encode(), {
        "Content-Type": "text/plain; charset=UTF-8",  # that is how SNS posts its JSON
        "x-amz-sns-message-type": content["Type"],
        "x-amz-sns-message-id": content["MessageId"],
        "x-amz-sns-topic-arn": content["TopicArn"],
    }


def _resend(content: Any, stamp: str, stranger: bool) -> _Signed:
    """By Svix."""
    body = json.dumps(content).encode()
    secret = b"s" * 24 if stranger else base64.b64decode(RESEND_SECRET.removeprefix("whsec_"))
    number = f"msg_{secrets.token_hex(12)}"
    made = hmac.new(secret, b".".join([number.encode(), stamp.encode(), body]), hashlib.sha256)
    signature = f"v1,{base64.b64encode(made.digest()).decode()}"
    return body, {"svix-id": number, "svix-timestamp": stamp, "svix-signature": signature}


_SIGNED = {
    "mailgun": _mailgun,
    "postmark": _postmark,
    "sendgrid": _sendgrid,
    "amazon_ses": _amazon_ses,
    "resend": _resend,
}
