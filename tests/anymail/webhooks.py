"""What providers post to Anymail's webhook views: their real payloads' fields, signed as they sign them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.anymail.signing import AT, STAMP, Post, sign
from tests.anymail.sns import amazon_ses

_MAILGUN = {
    "id": "CPgfbmQMTCKtHW6uIWtuVe",
    "timestamp": AT.timestamp(),
    "log-level": "info",
    "storage": {"key": "eyJw", "url": "https://sw.api.mailgun.net/v3/domains/mg.example.com/messages/eyJw"},
    "flags": {
        "is-routed": False,
        "is-authenticated": True,
        "is-system-test": False,
        "is-test-mode": False,
    },
    "campaigns": [],
    "tags": [],
}
_MAILGUN_HEADERS = {
    "message-id": "20260301120000.1.ABC@mg.example.com",
    "from": "shop@example.com",
    "subject": "Your receipt",
}
_MAILGUN_ENVELOPE = {"sender": "shop@example.com", "sending-ip": "192.0.2.1", "transport": "smtp"}
_MAILGUN_STATUS = {
    "mx-host": "mx.example.com",
    "attempt-no": 1,
    "session-seconds": 1.5,
    "utf8": True,
    "tls": True,
}


def mailgun(kind: str, who: str, metadata: Mapping[str, str], **how: Any) -> Post:
    """https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads"""
    event = {
        **_MAILGUN,
        "recipient": who,
        "recipient-domain": who.partition("@")[2],
        "envelope": {**_MAILGUN_ENVELOPE, "targets": who},
        "message": {"headers": {**_MAILGUN_HEADERS, "to": who}, "attachments": [], "size": 256},
        "user-variables": dict(metadata),
        **_mailgun_event(kind, who),
    }
    return sign("mailgun", event, **how)


def _mailgun_event(kind: str, who: str) -> dict[str, Any]:
    failed: dict[str, dict[str, Any]] = {
        "bounced": {"code": 550, "message": f"5.1.1 <{who}> no such user"},
        "deferred": {"code": 421, "message": "later", "retry-seconds": 600},
    }
    said = failed.get(kind, {"code": 250, "message": "OK", "description": ""})
    status = {"delivery-status": {**_MAILGUN_STATUS, **said}}
    events: dict[str, dict[str, Any]] = {
        "accepted": {"event": "opened", "ip": "192.0.2.7", "client-info": {"client-type": "browser"}},
        "delivered": {"event": "delivered", **status},
        "bounced": {
            "event": "failed",
            "severity": "permanent",
            "reason": "bounce",
            "log-level": "error",
            **status,
        },
        "complained": {"event": "complained"},
        "rejected": {"event": "rejected", "reject": {"reason": "Sandbox subdomains", "description": ""}},
        "deferred": {"event": "failed", "severity": "temporary", "reason": "generic", **status},
    }
    return events[kind]


_POSTMARK = {
    "MessageID": "883953f4-6105-42a2-a16a-77a8eac79483",
    "ServerID": 23,
    "MessageStream": "outbound",
    "Tag": "",
}
_POSTMARK_BOUNCE = {
    "ID": 42,
    "From": "shop@example.com",
    "BouncedAt": STAMP,
    "Name": "",
    "Description": "",
    "DumpAvailable": True,
    "Inactive": True,
    "CanActivate": True,
    "Subject": "Your receipt",
    "Content": "Return-Path: <>",
}


def postmark(kind: str, who: str, metadata: Mapping[str, str], **how: Any) -> Post:
    """https://postmarkapp.com/developer/webhooks/webhooks-overview"""
    bounce = {**_POSTMARK_BOUNCE, "Email": who, "Details": f"smtp;550 5.1.1 <{who}> no such user"}
    opened = {"FirstOpen": True, "Client": {"Name": "Mail"}, "OS": {}, "Platform": "Desktop", "Geo": {}}
    events: dict[str, dict[str, Any]] = {
        "accepted": {"RecordType": "Open", "Recipient": who, "ReceivedAt": STAMP, "UserAgent": "x", **opened},
        "delivered": {"RecordType": "Delivery", "Recipient": who, "DeliveredAt": STAMP, "Details": "250 OK"},
        "bounced": {"RecordType": "Bounce", "Type": "HardBounce", "TypeCode": 1, **bounce},
        "complained": {"RecordType": "SpamComplaint", "Type": "SpamComplaint", "TypeCode": 512, **bounce},
        "rejected": {"RecordType": "Bounce", "Type": "Blocked", "TypeCode": 2006, **bounce},
        "deferred": {"RecordType": "Bounce", "Type": "Transient", "TypeCode": 2, **bounce},
    }
    return sign("postmark", {**_POSTMARK, "Metadata": dict(metadata), **events[kind]}, **how)


def sendgrid(kind: str, who: str, metadata: Mapping[str, str], **how: Any) -> Post:
    """https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event"""
    return sign("sendgrid", [sendgrid_event(kind, who, metadata)], **how)


_SENDGRID = {
    "timestamp": int(AT.timestamp()),
    "anymail_id": "4ab185c2-0171-492f-9ce0-27de258efc99",
    "smtp-id": "<14c5d75ce93.dfd.64b469@ismtpd-555>",
    "sg_event_id": "ZGVsaXZlcmVkLTAtMTEzMjE",
    "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
    "category": [],
}


def sendgrid_event(kind: str, who: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return one of the events of a post, which has many."""
    bounced = {
        "type": "bounce",
        "bounce_classification": "Invalid Address",
        "status": "5.1.1",
        "reason": f"550 5.1.1 <{who}> no such user",
        "ip": "192.0.2.1",
        "tls": 1,
    }
    events: dict[str, dict[str, Any]] = {
        "accepted": {"event": "processed", "send_at": 0},
        "delivered": {"event": "delivered", "response": "250 2.0.0 OK", "ip": "192.0.2.1", "tls": 1},
        "bounced": {"event": "bounce", **bounced},
        "complained": {"event": "spamreport"},
        "rejected": {"event": "dropped", "reason": "Bounced Address", "status": "5.0.0"},
        "deferred": {"event": "deferred", "response": "450 later", "attempt": "1"},
    }
    return {**_SENDGRID, "email": who, **events[kind], **metadata}


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
