"""Entries and deliveries as columns of the ledger's tables, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ...ledger.audit import as_rows, from_rows
from ...ledger.entry import Delivery, Entry, Recipient
from ...ledger.status import DeliveryStatus, Status
from ...models.clock import StoreNow, read, written

PLAIN = (
    "email_type", "claim_id", "label", "generation", "owner", "fingerprint", "attempts", "result", "error",
    "provider_key", "offers", "sealed", "unfinished",
)  # fmt: skip
TIMES = ("deadline", "begun_at", "sent_at", "recognised_until")


def columns(alias: str, entry: Entry) -> dict[str, Any]:
    """Return the columns of ``entry`` for the ORM, but for those that the store counts itself."""
    values = {name: getattr(entry, name) for name in PLAIN}
    values.update({name: written(alias, getattr(entry, name)) for name in TIMES})
    values["label"] = entry.label[:255]
    values["status"] = entry.status.value
    values |= lists(entry)
    values["updated_at"] = StoreNow()
    return values


def lists(entry: Entry) -> dict[str, Any]:
    """Return the columns of ``entry`` that hold lists, as plain JSON."""
    return {
        "participants": list(entry.participants),
        "past": list(entry.past),
        "audit": as_rows(entry.audit),
    }


def entry_of(alias: str, row: Mapping[str, Any], deliveries: Sequence[Delivery]) -> Entry:
    """Return the entry of a row, given as column names and values."""
    plain: dict[str, Any] = {name: row[name] for name in PLAIN}
    plain |= {name: read(alias, row[name]) for name in TIMES}
    plain["result"] = _loaded(row["result"])
    return Entry(
        key=row["key"],
        status=Status(row["status"]),
        version=row["version"],
        arrivals=row["arrivals"],
        created_at=read(alias, row["created_at"]),
        participants=tuple(_loaded(row["participants"])),
        past=tuple(_loaded(row["past"])),
        audit=from_rows(_loaded(row["audit"])),
        deliveries=tuple(deliveries),
        **plain,
    )


def delivery_of(row: Mapping[str, Any]) -> Delivery:
    """Return the delivery of a row, given as column names and values."""
    who = Recipient(row["digest"], row["recipient"])
    status = DeliveryStatus(row["status"])
    events = tuple((kind, datetime.fromisoformat(at)) for kind, at in _loaded(row["events"]))
    return Delivery(row["part"], who, status, row["message_id"], row["code"], row["detail"], events)


def delivery_columns(delivery: Delivery) -> dict[str, Any]:
    """Return the columns of ``delivery``, cut to what they hold."""
    return {
        "part": delivery.part,
        "digest": delivery.recipient.digest,
        "recipient": delivery.recipient.shown[:320],
        "status": delivery.status.value,
        "message_id": delivery.message_id[:255],
        "code": delivery.code,
        "detail": delivery.detail[:200],
        "events": [[kind, at.isoformat()] for kind, at in delivery.events],
    }


class Json(str):
    """A JSON column as a raw cursor returns it: text that is still to be read."""


def _loaded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, Json) else value
