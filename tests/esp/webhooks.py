"""What providers post to Anymail's webhook views: their real payloads' fields, signed as they sign them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
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
Post = tuple[str, bytes, dict[str, str]]
"""Path, body and headers of a request."""
AT = datetime(2026, 3, 1, 12, 0, 5, tzinfo=timezone.utc)
_STAMP = AT.isoformat().replace("+00:00", "Z")


def sign(name: str, content: Any, age: float = 0.0, stranger: bool = False) -> Post:
    """Return the request that tells ``content``: ``age`` seconds ago, or as a ``stranger`` would sign it."""
    stamp = str(int(time.time() - age))
    headers = {"Authorization": BASIC, "Content-Type": "application/json"}
    match name:
        case "mailgun":
            signature = _mailgun_signature(stamp, token := secrets.token_hex(25), stranger)
            signed = {"timestamp": stamp, "token": token, "signature": signature}
            body = json.dumps({"signature": signed, "event-data": content}).encode()
        case "postmark":
            body = json.dumps(content).encode()
            headers["User-Agent"] = "Postmark"
        case "sendgrid":
            body = json.dumps(content).encode()
            key = _STRANGER if stranger else _SENDGRID
            signature = base64.b64encode(key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()
            headers["X-Twilio-Email-Event-Webhook-Signature"] = signature
            headers["X-Twilio-Email-Event-Webhook-Timestamp"] = stamp
        case "amazon_ses":
            body = json.dumps(content).encode()
            headers["Content-Type"] = "text/plain; charset=UTF-8"  # that is how SNS posts its JSON
            headers["x-amz-sns-message-type"] = content["Type"]
            headers["x-amz-sns-message-id"] = content["MessageId"]
            headers["x-amz-sns-topic-arn"] = content["TopicArn"]
        case "resend":
            body = json.dumps(content).encode()
            secret = b"s" * 24 if stranger else base64.b64decode(RESEND_SECRET.removeprefix("whsec_"))
            number = f"msg_{secrets.token_hex(12)}"
            made = hmac.new(secret, b".".join([number.encode(), stamp.encode(), body]), hashlib.sha256)
            headers["svix-id"], headers["svix-timestamp"] = number, stamp
            headers["svix-signature"] = f"v1,{base64.b64encode(made.digest()).decode()}"
        case _:
            raise ValueError(name)
    return name, body, headers


def _mailgun_signature(stamp: str, token: str, stranger: bool) -> str:
    key = "another-key" if stranger else MAILGUN_KEY
    return hmac.new(key.encode(), f"{stamp}{token}".encode(), hashlib.sha256).hexdigest()


def mailgun(kind: str, who: str, metadata: Mapping[str, str], **how: Any) -> Post:
    """https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads"""
    status = {"mx-host": "mx.example.com", "attempt-no": 1, "session-seconds": 1.5, "utf8": True, "tls": True}
    events: dict[str, dict[str, Any]] = {
        "accepted": {"event": "opened", "ip": "192.0.2.7", "client-info": {"client-type": "browser"}},
        "delivered": {
            "event": "delivered",
            "delivery-status": {**status, "code": 250, "message": "OK", "description": ""},
        },
        "bounced": {
            "event": "failed",
            "severity": "permanent",
            "reason": "bounce",
            "log-level": "error",
            "delivery-status": {**status, "code": 550, "message": f"5.1.1 <{who}> no such user"},
        },
        "complained": {"event": "complained"},
        "rejected": {"event": "rejected", "reject": {"reason": "Sandbox subdomains", "description": ""}},
        "deferred": {
            "event": "failed",
            "severity": "temporary",
            "reason": "generic",
            "delivery-status": {**status, "code": 421, "message": "later", "retry-seconds": 600},
        },
    }
    event = {
        "id": "CPgfbmQMTCKtHW6uIWtuVe",
        "timestamp": AT.timestamp(),
        "log-level": "info",
        "recipient": who,
        "recipient-domain": who.partition("@")[2],
        "envelope": {
            "sender": "shop@example.com",
            "sending-ip": "192.0.2.1",
            "targets": who,
            "transport": "smtp",
        },
        "storage": {"key": "eyJw", "url": "https://sw.api.mailgun.net/v3/domains/mg.example.com/messages/eyJw"},
        "message": {
            "headers": {
                "to": who,
                "message-id": "20260301120000.1.ABC@mg.example.com",
                "from": "shop@example.com",
                "subject": "Your receipt",
            },
            "attachments": [],
            "size": 256,
        },
        "flags": {
            "is-routed": False,
            "is-authenticated": True,
            "is-system-test": False,
            "is-test-mode": False,
        },
        "campaigns": [],
        "tags": [],
        "user-variables": dict(metadata),
        **events[kind],
    }
    return sign("mailgun", event, **how)


def postmark(kind: str, who: str, metadata: Mapping[str, str], **how: Any) -> Post:
    """https://postmarkapp.com/developer/webhooks/webhooks-overview"""
    common = {
        "MessageID": "883953f4-6105-42a2-a16a-77a8eac79483",
        "ServerID": 23,
        "MessageStream": "outbound",
        "Tag": "",
        "Metadata": dict(metadata),
    }
    bounce = {
        "ID": 42,
        "Email": who,
        "From": "shop@example.com",
        "BouncedAt": _STAMP,
        "Name": "",
        "Description": "",
        "Details": f"smtp;550 5.1.1 <{who}> no such user",
        "DumpAvailable": True,
        "Inactive": True,
        "CanActivate": True,
        "Subject": "Your receipt",
        "Content": "Return-Path: <>",
    }
    opened = {"FirstOpen": True, "Client": {"Name": "Mail"}, "OS": {}, "Platform": "Desktop", "Geo": {}}
    events: dict[str, dict[str, Any]] = {
        "accepted": {"RecordType": "Open", "Recipient": who, "ReceivedAt": _STAMP, "UserAgent": "x", **opened},
        "delivered": {"RecordType": "Delivery", "Recipient": who, "DeliveredAt": _STAMP, "Details": "250 OK"},
        "bounced": {"RecordType": "Bounce", "Type": "HardBounce", "TypeCode": 1, **bounce},
        "complained": {"RecordType": "SpamComplaint", "Type": "SpamComplaint", "TypeCode": 512, **bounce},
        "rejected": {"RecordType": "Bounce", "Type": "Blocked", "TypeCode": 2006, **bounce},
        "deferred": {"RecordType": "Bounce", "Type": "Transient", "TypeCode": 2, **bounce},
    }
    return sign("postmark", {**common, **events[kind]}, **how)


def sendgrid(kind: str, who: str, metadata: Mapping[str, str], **how: Any) -> Post:
    """https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event"""
    return sign("sendgrid", [sendgrid_event(kind, who, metadata)], **how)


def sendgrid_event(kind: str, who: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return one of the events of a post, which has many."""
    events: dict[str, dict[str, Any]] = {
        "accepted": {"event": "processed", "send_at": 0},
        "delivered": {"event": "delivered", "response": "250 2.0.0 OK", "ip": "192.0.2.1", "tls": 1},
        "bounced": {
            "event": "bounce",
            "type": "bounce",
            "bounce_classification": "Invalid Address",
            "status": "5.1.1",
            "reason": f"550 5.1.1 <{who}> no such user",
            "ip": "192.0.2.1",
            "tls": 1,
        },
        "complained": {"event": "spamreport"},
        "rejected": {"event": "dropped", "reason": "Bounced Address", "status": "5.0.0"},
        "deferred": {"event": "deferred", "response": "450 later", "attempt": "1"},
    }
    return {
        "email": who,
        "timestamp": int(AT.timestamp()),
        "anymail_id": "4ab185c2-0171-492f-9ce0-27de258efc99",
        "smtp-id": "<14c5d75ce93.dfd.64b469@ismtpd-555>",
        "sg_event_id": "ZGVsaXZlcmVkLTAtMTEzMjE",
        "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
        "category": [],
        **events[kind],
        **metadata,
    }


def amazon_ses(
    kind: str, who: str, metadata: Mapping[str, str], also: tuple[str, ...] = (), **how: Any
) -> Post:
    """https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html"""
    bounced = {
        "emailAddress": who,
        "action": "failed",
        "status": "5.1.1",
        "diagnosticCode": "smtp; 550 5.1.1",
    }
    events: dict[str, dict[str, Any]] = {
        "delivered": {
            "eventType": "Delivery",
            "delivery": {
                "timestamp": _STAMP,
                "recipients": [who],
                "processingTimeMillis": 546,
                "reportingMTA": "a8-70.smtp-out.amazonses.com",
                "smtpResponse": "250 ok",
            },
        },
        "bounced": {
            "eventType": "Bounce",
            "bounce": {
                "bounceType": "Permanent",
                "bounceSubType": "General",
                "bouncedRecipients": [bounced],
                "timestamp": _STAMP,
                "feedbackId": "0100017a-000000",
                "reportingMTA": "dns; example.com",
            },
        },
        "complained": {
            # Without a configuration set SES names its notifications like that.
            "notificationType": "Complaint",
            "complaint": {
                "complainedRecipients": [{"emailAddress": who}],
                "timestamp": _STAMP,
                "feedbackId": "0100017a-000001",
                "complaintFeedbackType": "abuse",
                "userAgent": "Loop (1.0)",
            },
        },
        "rejected": {"eventType": "Reject", "reject": {"reason": "Bad content"}},
        "accepted": {"eventType": "Send", "send": {}},
    }
    message = {
        **events[kind],
        "mail": {
            "timestamp": _STAMP,
            "source": "shop@example.com",
            "sourceArn": "arn:aws:ses:us-east-1:123456789012:identity/example.com",
            "sendingAccountId": "123456789012",
            "messageId": "00000137860315fd-34208509-5b74-41f3-95c5-22c1edc3c924-000000",
            "destination": [who, *also],
            "headersTruncated": False,
            "headers": [
                {"name": "From", "value": "shop@example.com"},
                {"name": "To", "value": ", ".join([who, *also])},
                {"name": "X-Metadata", "value": json.dumps(dict(metadata))},
            ],
            "commonHeaders": {
                "from": ["shop@example.com"],
                "to": [who, *also],
                "subject": "Your receipt",
            },
            "tags": {"ses:configuration-set": ["shop"]},
        },
    }
    return sns("Notification", json.dumps(message) + "\n", **how)


def sns(kind: str, message: str, **how: Any) -> Post:
    """https://docs.aws.amazon.com/sns/latest/dg/http-notification-json.html, whose signature nobody looks at"""
    body = {
        "Type": kind,
        "MessageId": "19ba9823-d7f2-53c1-860e-cb10e0d13dfc",
        "TopicArn": "arn:aws:sns:us-east-1:123456789012:SES_Events",
        "Subject": "Amazon SES Email Event Notification",
        "Message": message,
        "Timestamp": _STAMP,
        "SignatureVersion": "1",
        "Signature": "EXAMPLE==",
        "SigningCertURL": "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-1.pem",
    }
    if kind == "SubscriptionConfirmation":
        body |= {"Token": "2336412f37", "SubscribeURL": "https://sns.us-east-1.amazonaws.com/?Token=2336412f37"}
    else:
        body |= {"UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe"}
    return sign("amazon_ses", body, **how)


def resend(kind: str, who: str, metadata: Mapping[str, str], also: tuple[str, ...] = (), **how: Any) -> Post:
    """https://resend.com/docs/dashboard/webhooks/event-types, signed by Svix"""
    names = {"accepted": "sent", "deferred": "delivery_delayed"}
    data: dict[str, Any] = {
        "email_id": "56761188-7520-42d8-8898-ff6fc54ce618",
        "broadcast_id": None,
        "created_at": "2026-03-01 12:00:03.894719+00",
        "from": "shop@example.com",
        "to": [who, *also],
        "subject": "Your receipt",
        "headers": [{"name": "X-Metadata", "value": json.dumps(dict(metadata))}],
        "tags": {"category": "receipt"},
    }
    if kind == "bounced":
        text = "The recipient's email provider sent a hard bounce message."
        data["bounce"] = {"message": text, "type": "Permanent", "subType": "General"}
    event = {"type": f"email.{names.get(kind, kind)}", "created_at": AT.isoformat(), "data": data}
    return sign("resend", event, **how)


WEBHOOKS: dict[str, Callable[..., Post]] = {
    "mailgun": mailgun,
    "postmark": postmark,
    "sendgrid": sendgrid,
    "amazon_ses": amazon_ses,
    "resend": resend,
}
