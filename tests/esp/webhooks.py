"""What providers post to Anymail's webhook views: their documented payloads, signed as they sign them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

BASIC = "Basic " + base64.b64encode(b"user:password").decode()
MAILGUN_KEY = "mailgun-signing-key"
RESEND_SECRET = "whsec_" + base64.b64encode(b"resend-signing-secret-of-24-bytes").decode()
_SENDGRID = ec.generate_private_key(ec.SECP256R1())
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
Post = tuple[str, bytes, dict[str, str]]
"""Path, body and headers of a request."""
AT = datetime(2026, 3, 1, 12, 0, 5, tzinfo=timezone.utc)


def mailgun(kind: str, who: str, metadata: Mapping[str, str], token: str = "a" * 50) -> Post:
    """https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads"""
    events = {
        "delivered": {
            "event": "delivered",
            "delivery-status": {"code": 250, "message": "OK", "description": "", "tls": True},
        },
        "bounced": {
            "event": "failed",
            "severity": "permanent",
            "reason": "bounce",
            "delivery-status": {"code": 550, "message": f"5.1.1 <{who}> no such user", "description": ""},
        },
        "complained": {"event": "complained"},
        "rejected": {"event": "rejected", "reject": {"reason": "Sandbox subdomains", "description": ""}},
        "deferred": {
            "event": "failed",
            "severity": "temporary",
            "reason": "generic",
            "delivery-status": {"code": 421, "message": "later", "retry-seconds": 600},
        },
    }
    stamp = str(int(time.time()))
    signature = hmac.new(MAILGUN_KEY.encode(), f"{stamp}{token}".encode(), hashlib.sha256).hexdigest()
    event = {
        "id": "CPgfbmQMTCKtHW6uIWtuVe",
        "timestamp": AT.timestamp(),
        "log-level": "info",
        "recipient": who,
        "recipient-domain": who.partition("@")[2],
        "message": {
            "headers": {
                "to": who,
                "message-id": "20260301120000.1.ABC@mg.example.com",
                "from": "shop@example.com",
            },
            "attachments": [],
            "size": 256,
        },
        "flags": {"is-routed": False, "is-authenticated": True, "is-system-test": False, "is-test-mode": False},
        "campaigns": [],
        "tags": [],
        "user-variables": dict(metadata),
        **events[kind],
    }
    body = {"signature": {"timestamp": stamp, "token": token, "signature": signature}, "event-data": event}
    return "mailgun", json.dumps(body).encode(), {"Authorization": BASIC}


def postmark(kind: str, who: str, metadata: Mapping[str, str]) -> Post:
    """https://postmarkapp.com/developer/webhooks/webhooks-overview"""
    common = {"MessageID": "883953f4-6105-42a2-a16a-77a8eac79483", "ServerID": 23, "MessageStream": "outbound"}
    stamp = AT.isoformat().replace("+00:00", "Z")
    bounce = {"ID": 42, "Email": who, "BouncedAt": stamp, "Inactive": True, "CanActivate": True, "Tag": ""}
    events = {
        "delivered": {"RecordType": "Delivery", "Recipient": who, "DeliveredAt": stamp, "Details": "250 OK"},
        "bounced": {"RecordType": "Bounce", "Type": "HardBounce", "TypeCode": 1, **bounce},
        "complained": {"RecordType": "SpamComplaint", "Type": "SpamComplaint", "TypeCode": 512, **bounce},
        "rejected": {"RecordType": "Bounce", "Type": "Blocked", "TypeCode": 2006, **bounce},
        "deferred": {"RecordType": "Bounce", "Type": "Transient", "TypeCode": 2, **bounce},
    }
    body = {**common, **events[kind], "Metadata": dict(metadata)}
    return "postmark", json.dumps(body).encode(), {"Authorization": BASIC}


def sendgrid(kind: str, who: str, metadata: Mapping[str, str]) -> Post:
    """https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event"""
    events = {
        "delivered": {"event": "delivered", "response": "250 OK"},
        "bounced": {"event": "bounce", "type": "bounce", "status": "5.1.1", "reason": "550 no such user"},
        "complained": {"event": "spamreport"},
        "rejected": {"event": "dropped", "reason": "Bounced Address"},
        "deferred": {"event": "deferred", "response": "450 later", "attempt": "1"},
    }
    event = {
        "email": who,
        "timestamp": int(AT.timestamp()),
        "smtp-id": "<14c5d75ce93.dfd.64b469@ismtpd-555>",
        "sg_event_id": "ZGVsaXZlcmVkLTAtMTEzMjE",
        "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
        **events[kind],
        **metadata,
    }
    body = json.dumps([event]).encode()
    stamp = str(int(time.time()))
    signature = base64.b64encode(_SENDGRID.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()
    return (
        "sendgrid",
        body,
        {
            "Authorization": BASIC,
            "X-Twilio-Email-Event-Webhook-Signature": signature,
            "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
        },
    )


def amazon_ses(kind: str, who: str, metadata: Mapping[str, str]) -> Post:
    """https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html"""
    stamp = AT.isoformat().replace("+00:00", "Z")
    events: dict[str, dict[str, Any]] = {
        "delivered": {
            "eventType": "Delivery",
            "delivery": {"timestamp": stamp, "recipients": [who], "smtpResponse": "250 ok"},
        },
        "bounced": {
            "eventType": "Bounce",
            "bounce": {
                "bounceType": "Permanent",
                "bounceSubType": "General",
                "bouncedRecipients": [{"emailAddress": who, "action": "failed", "status": "5.1.1"}],
                "timestamp": stamp,
            },
        },
        "complained": {
            "eventType": "Complaint",
            "complaint": {"complainedRecipients": [{"emailAddress": who}], "timestamp": stamp},
        },
        "rejected": {"eventType": "Reject", "reject": {"reason": "Bad content"}},
        "accepted": {"eventType": "Send", "send": {}},
    }
    message = {
        **events[kind],
        "mail": {
            "timestamp": stamp,
            "messageId": "00000137860315fd-34208509-5b74-41f3-95c5-22c1edc3c924-000000",
            "destination": [who],
            "headersTruncated": False,
            "headers": [{"name": "X-Metadata", "value": json.dumps(dict(metadata))}],
            "tags": {},
        },
    }
    body = {
        "Type": "Notification",
        "MessageId": "19ba9823-d7f2-53c1-860e-cb10e0d13dfc",
        "TopicArn": "arn:aws:sns:us-east-1:1234567890:SES_Events",
        "Message": json.dumps(message),
        "Timestamp": stamp,
        "SignatureVersion": "1",
        "Signature": "EXAMPLE",
    }
    headers = {
        "Authorization": BASIC,
        "x-amz-sns-message-type": "Notification",
        "x-amz-sns-message-id": str(body["MessageId"]),
    }
    return "amazon_ses", json.dumps(body).encode(), headers


def resend(
    kind: str, who: str, metadata: Mapping[str, str], also: tuple[str, ...] = (), age: float = 0
) -> Post:
    """https://resend.com/docs/dashboard/webhooks/event-types, signed by Svix"""
    names = {"accepted": "sent", "deferred": "delivery_delayed"}
    data: dict[str, Any] = {
        "email_id": "56761188-7520-42d8-8898-ff6fc54ce618",
        "created_at": AT.isoformat(),
        "from": "shop@example.com",
        "to": [who, *also],
        "subject": "Your order",
        "headers": [{"name": "X-Metadata", "value": json.dumps(dict(metadata))}],
    }
    if kind == "bounced":
        data["bounce"] = {"message": "The recipient's email provider sent a hard bounce message."}
    event = {"type": f"email.{names.get(kind, kind)}", "created_at": AT.isoformat(), "data": data}
    body = json.dumps(event).encode()
    stamp = str(int(time.time() - age))
    secret = base64.b64decode(RESEND_SECRET.removeprefix("whsec_"))
    signed = b".".join([b"msg_1", stamp.encode(), body])
    signature = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    return (
        "resend",
        body,
        {
            "Authorization": BASIC,
            "svix-id": "msg_1",
            "svix-timestamp": stamp,
            "svix-signature": f"v1,{signature}",
        },
    )


WEBHOOKS: dict[str, Callable[..., Post]] = {
    "mailgun": mailgun,
    "postmark": postmark,
    "sendgrid": sendgrid,
    "amazon_ses": amazon_ses,
    "resend": resend,
}
