"""What Amazon posts to Anymail's webhook view: notifications of SNS, and the events of SES that are in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.anymail.signing import STAMP, Post, sign

_MAIL = {
    "timestamp": STAMP,
    "source": "shop@example.com",
    "sourceArn": "arn:aws:ses:us-east-1:123456789012:identity/example.com",
    "sendingAccountId": "123456789012",
    "messageId": "00000137860315fd-34208509-5b74-41f3-95c5-22c1edc3c924-000000",
    "headersTruncated": False,
    "tags": {"ses:configuration-set": ["shop"]},
}


def amazon_ses(
    kind: str, who: str, metadata: Mapping[str, str], also: tuple[str, ...] = (), **how: Any
) -> Post:
    """https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html"""
    people = [who, *also]
    headers = {
        "From": "shop@example.com",
        "To": ", ".join(people),
        "X-Metadata": json.dumps(dict(metadata)),
    }
    mail = {
        **_MAIL,
        "destination": people,
        "headers": [{"name": name, "value": value} for name, value in headers.items()],
        "commonHeaders": {"from": ["shop@example.com"], "to": people, "subject": "Your receipt"},
    }
    return sns("Notification", json.dumps({**_EVENTS[kind](who), "mail": mail}) + "\n", **how)


def _delivered(who: str) -> dict[str, Any]:
    delivery = {
        "timestamp": STAMP,
        "recipients": [who],
        "processingTimeMillis": 546,
        "reportingMTA": "a8-70.smtp-out.amazonses.com",
        "smtpResponse": "250 ok",
    }
    return {"eventType": "Delivery", "delivery": delivery}


def _bounced(who: str) -> dict[str, Any]:
    bounced = {"emailAddress": who, "action": "failed", "status": "5.1.1", "diagnosticCode": "smtp; 550 5.1.1"}
    bounce = {
        "bounceType": "Permanent",
        "bounceSubType": "General",
        "bouncedRecipients": [bounced],
        "timestamp": STAMP,
        "feedbackId": "0100017a-000000",
        "reportingMTA": "dns; example.com",
    }
    return {"eventType": "Bounce", "bounce": bounce}


def _complained(who: str) -> dict[str, Any]:
    """Without a configuration set SES names its notifications like that."""
    complaint = {
        "complainedRecipients": [{"emailAddress": who}],
        "timestamp": STAMP,
        "feedbackId": "0100017a-000001",
        "complaintFeedbackType": "abuse",
        "userAgent": "Loop (1.0)",
    }
    return {"notificationType": "Complaint", "complaint": complaint}


def _delayed(who: str) -> dict[str, Any]:
    delay = {
        "timestamp": STAMP,
        "delayType": "TransientCommunicationFailure",
        "expirationTime": "2026-03-01T23:59:59.000Z",
        "delayedRecipients": [
            {"emailAddress": who, "status": "4.4.1", "diagnosticCode": "smtp; 421 4.4.1 Unable to connect"}
        ],
    }
    return {"eventType": "DeliveryDelay", "deliveryDelay": delay}


_EVENTS = {
    "deferred": _delayed,
    "delivered": _delivered,
    "bounced": _bounced,
    "complained": _complained,
    "rejected": lambda who: {"eventType": "Reject", "reject": {"reason": "Bad content"}},
    "accepted": lambda who: {"eventType": "Send", "send": {}},
}


def sns(kind: str, message: str, **how: Any) -> Post:
    """https://docs.aws.amazon.com/sns/latest/dg/http-notification-json.html"""
    body = {
        "Type": kind,
        "MessageId": "19ba9823-d7f2-53c1-860e-cb10e0d13dfc",
        "TopicArn": "arn:aws:sns:us-east-1:123456789012:SES_Events",
        "Subject": "Amazon SES Email Event Notification",
        "Message": message,
        "Timestamp": STAMP,
        "SignatureVersion": "1",
        "Signature": "EXAMPLE==",
        "SigningCertURL": "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-1.pem",
    }
    if kind == "SubscriptionConfirmation":
        body |= {"Token": "2336412f37", "SubscribeURL": "https://sns.us-east-1.amazonaws.com/?Token=2336412f37"}
    else:
        body |= {"UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe"}
    return sign("amazon_ses", body, **how)
