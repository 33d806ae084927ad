"""An entry as one line of text: ``<format> <version> <arrivals> <created> <changed> <body>``.

The head belongs to the store: counters, when the entry was created in microseconds since the epoch, and how
long after that it was last written. The body is JSON. A time in it is a number, microseconds since the entry
was created, or a string such as ``"+60000000"``, microseconds since it was last written: the writer of `After`
does not know the store's clock, and whoever decodes the line finds its reading in the head.

A finished entry is kept for months, so it is kept small: fields at their default are left out, hex digests are
base64.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from ...exceptions import EntryUnreadable
from ...ledger.audit import as_rows, from_rows
from ...ledger.entry import After, Attempt, Delivery, Entry, Moment, Recipient
from ...ledger.status import IN_FLIGHT, DeliveryStatus, Status

FORMAT = 2
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_FAR = timedelta(days=10_000)
_PLAIN = {
    "t": "email_type",
    "o": "owner",
    "c": "claim_id",
    "g": "generation",
    "l": "label",
    "a": "attempts",
    "r": "result",
    "e": "error",
    "k": "provider_key",
    "n": "offers",
    "z": "sealed",
    "h": "unfinished",
}
_TIMES = {"d": "deadline", "b": "begun_at", "w": "sent_at", "u": "recognised_until"}
_DEFAULTS: dict[str, Any] = {"generation": 1, "attempts": 0, "result": None, "offers": 0, "unfinished": False}


def encode(entry: Entry) -> str:
    """Return the body of ``entry``."""
    body: dict[str, Any] = {"s": entry.status.value}
    for short, name in _PLAIN.items():
        value = getattr(entry, name)
        if value != _DEFAULTS.get(name, ""):
            body[short] = value
    for short, name in _TIMES.items():
        if (moment := getattr(entry, name)) is not None:
            body[short] = _as_number(moment, entry.created_at)
    if entry.fingerprint:
        body["f"] = packed(entry.fingerprint)
    if entry.participants:
        body["p"] = entry.participants
    if entry.past:
        body["q"] = entry.past
    if entry.audit:
        body["A"] = as_rows(entry.audit)
    ids = {message_id: n for n, message_id in enumerate(dict.fromkeys(d.message_id for d in entry.deliveries))}
    said = _said(entry.deliveries)
    if entry.deliveries:
        body["m"] = list(ids)
        body["D"] = [_trimmed(_delivery(d, ids), _DELIVERY) for d in entry.deliveries]
    if entry.history:
        body["H"] = [_trimmed(_attempt(a, entry, ids, said), _ATTEMPT) for a in entry.history]
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def decode(key: str, value: bytes | str) -> Entry:
    """Return the entry of ``key`` from a whole line. Raises `EntryUnreadable`, naming the key."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    try:
        form = text.split(" ", 1)[0]
        if form != str(FORMAT):
            raise EntryUnreadable(
                f"{key}: the store holds an entry of format {form[:20]!r}; this version reads {FORMAT}. "
                "Was it written by a newer version of celery_idempotent? Nothing was sent or changed"
            )
        _, version, arrivals, created, changed, body = text.split(" ", 5)
        clock = _Clock(int(created), int(changed))
        return _entry(key, int(version), int(arrivals), clock, json.loads(body))
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, ValueError) as error:
        raise EntryUnreadable(
            f"{key}: what the store holds is no entry ({type(error).__name__}: {error}). "
            "Nothing was sent or changed"
        ) from None


class _Clock:
    """Reads the times of a body, given the two of its head."""

    def __init__(self, created: int, changed: int) -> None:
        self.created = _EPOCH + created * _MICROSECOND
        self._changed = self.created + changed * _MICROSECOND

    def read(self, value: int | str) -> datetime:
        """Return a time as `_as_number` wrote it."""
        span = int(value) * _MICROSECOND
        if isinstance(value, str):
            return self._changed + span
        return (self.created if abs(span) < _FAR else _EPOCH) + span


def _entry(key: str, version: int, arrivals: int, clock: _Clock, body: dict[str, Any]) -> Entry:
    if not (body["o"] and body["c"] and (body["s"] not in IN_FLIGHT or "d" in body)):
        raise ValueError("owner, claim or deadline is missing")
    values: dict[str, Any] = {name: body.get(s, _DEFAULTS.get(name, "")) for s, name in _PLAIN.items()}
    values |= {name: clock.read(body[s]) if s in body else None for s, name in _TIMES.items()}
    ids = body.get("m", [])
    entry = Entry(
        key=key,
        status=Status(body["s"]),
        version=version,
        arrivals=arrivals,
        created_at=clock.created,
        fingerprint=_unpacked(body.get("f", "")),
        participants=tuple(body.get("p", ())),
        past=tuple(body.get("q", ())),
        audit=from_rows(body.get("A", ())),
        deliveries=tuple(_delivery_of(row, ids) for row in body.get("D", ())),
        **values,
    )
    said = _said(entry.deliveries)
    return replace(entry, history=tuple(_attempt_of(row, entry, clock, ids, said) for row in body.get("H", ())))


def _delivery(d: Delivery, ids: Mapping[str, int]) -> list[Any]:
    who, place = d.recipient, ids[d.message_id]
    events = [[kind, (at - _EPOCH) // _MICROSECOND] for kind, at in d.events]
    return [packed(who.digest), who.shown, d.status.value, d.part, place, d.code, d.detail, events]


def _delivery_of(row: list[Any], ids: Sequence[str]) -> Delivery:
    digest, shown, status, part, place, code, detail, events = [*row, *_DELIVERY[len(row) :]]
    who = Recipient(_unpacked(digest), shown)
    later = tuple((kind, _EPOCH + at * _MICROSECOND) for kind, at in events)
    return Delivery(part, who, DeliveryStatus(status), ids[place], code, detail, later)


_DELIVERY: list[Any] = ["", "", "", "", 0, None, "", []]
"""The defaults of a delivery's row."""


def _attempt(
    a: Attempt, entry: Entry, ids: Mapping[str, int], said: Mapping[str, tuple[int | None, str]]
) -> list[Any]:
    task_id = "" if a.task_id == entry.owner else a.task_id
    place = ids.get(a.message_id, a.message_id)
    ended = None if a.ended_at is None else _as_number(a.ended_at, entry.created_at)
    started = _as_number(a.started_at, entry.created_at)
    reply = (a.code, a.detail)
    if reply == said.get(a.part):
        reply = (_AS_DELIVERED, "")
    who = [a.generation, a.part, a.worker, a.recipients]
    return [a.number, started, ended, a.outcome.value, *who, place, *reply, task_id]


def _attempt_of(
    row: list[Any],
    entry: Entry,
    clock: _Clock,
    ids: Sequence[str],
    said: Mapping[str, tuple[int | None, str]],
) -> Attempt:
    row = [*row, *_ATTEMPT[len(row) :]]
    number, started, ended, outcome, generation, part, worker, people, place, code, detail, task_id = row
    if code == _AS_DELIVERED:
        code, detail = said.get(part, (None, ""))
    message_id = place if isinstance(place, str) else ids[place] if ids else ""
    return Attempt(
        number=number,
        generation=generation,
        part=part,
        task_id=task_id or entry.owner,
        worker=worker,
        message_id=message_id,
        recipients=people,
        started_at=clock.read(started),
        ended_at=None if ended is None else clock.read(ended),
        outcome=DeliveryStatus(outcome),
        code=code,
        detail=detail,
    )


def _said(deliveries: Sequence[Delivery]) -> dict[str, tuple[int | None, str]]:
    """Return by part what the server said of its first recipient: mostly that of the attempt, too."""
    return {d.part: (d.code, d.detail) for d in reversed(deliveries)}


_AS_DELIVERED = 0
"""In place of a reply code: the same code and text as the part's first recipient. No server replies 0."""
_ATTEMPT: list[Any] = [0, 0, None, "", 1, "", "", 0, 0, _AS_DELIVERED, "", ""]
"""The defaults of an attempt's row."""


def _trimmed(row: list[Any], defaults: list[Any]) -> list[Any]:
    """Return ``row`` without the defaults at its end."""
    end = len(row)
    while end and row[end - 1] == defaults[end - 1] and type(row[end - 1]) is type(defaults[end - 1]):
        end -= 1
    return row[:end]


def _as_number(moment: Moment, created: Moment | None) -> int | str:
    """Return microseconds: since the write, signed; or since ``created``; or, where that is far, since 1970."""
    if isinstance(moment, After):
        return signed(moment)
    if isinstance(created, datetime) and abs(moment - created) < _FAR:
        return (moment - created) // _MICROSECOND
    return (moment - _EPOCH) // _MICROSECOND


def signed(after: After) -> str:
    """Return microseconds from the write on, with their sign."""
    return f"{round(after.seconds * 1_000_000):+d}"


def packed(digest: str) -> str:
    """Return a hex digest as base64; anything else behind a ``=``, which base64 cannot begin with."""
    try:
        raw = binascii.unhexlify(digest)
    except ValueError:
        return "=" + digest
    if raw.hex() != digest:
        return "=" + digest
    return urlsafe_b64encode(raw).decode().rstrip("=")


def _unpacked(text: str) -> str:
    if text.startswith("="):
        return text[1:]
    return urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
