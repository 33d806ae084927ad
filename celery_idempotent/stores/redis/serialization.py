"""An entry as one line of text, for stores that keep it as a whole.

``<format> <version> <arrivals> <created> <changed> <body>``: the head belongs to the store, which counts and
stamps it; the body is JSON. A time that the store has to fill in stands in the body as its seconds between two
characters U+0001, which JSON itself never holds: it escapes control characters.

A finished entry is kept for months, so it is kept small: fields at their default are left out, hex digests are
base64, and times are microseconds since the entry was created (those that the store fills in: since the epoch).
"""

from __future__ import annotations

import binascii
import json
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from ...exceptions import EntryUnreadable
from ...ledger.audit import as_rows, from_rows
from ...ledger.entry import After, Attempt, Delivery, Entry, Moment, Recipient
from ...ledger.status import IN_FLIGHT, DeliveryStatus, Status

FORMAT = 1
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
    mark = secrets.token_hex(8)  # random, so that no text of a project can look like a time to be filled in
    body: dict[str, Any] = {"s": entry.status.value}
    for short, name in _PLAIN.items():
        value = getattr(entry, name)
        if value != _DEFAULTS.get(name, ""):
            body[short] = value
    for short, name in _TIMES.items():
        if (moment := getattr(entry, name)) is not None:
            body[short] = _time(moment, mark, entry.created_at)
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
        body["H"] = [_trimmed(_attempt(a, entry, ids, said, mark), _ATTEMPT) for a in entry.history]
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return re.sub(f'"{mark}([-0-9.]+)"', "\x01\\1\x01", text)


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
        _, version, arrivals, created, _, body = text.split(" ", 5)
        return _entry(key, int(version), int(arrivals), int(created), json.loads(body))
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, ValueError) as error:
        raise EntryUnreadable(
            f"{key}: what the store holds is no entry ({type(error).__name__}: {error}). "
            "Nothing was sent or changed"
        ) from None


def _entry(key: str, version: int, arrivals: int, created: int, body: dict[str, Any]) -> Entry:
    begun = _moment(created)
    if not (body["o"] and body["c"] and (body["s"] not in IN_FLIGHT or "d" in body)):
        raise ValueError("owner, claim or deadline is missing")
    values: dict[str, Any] = {name: body.get(s, _DEFAULTS.get(name, "")) for s, name in _PLAIN.items()}
    values |= {name: _moment(body[s], begun) if s in body else None for s, name in _TIMES.items()}
    ids = body.get("m", [])
    entry = Entry(
        key=key,
        status=Status(body["s"]),
        version=version,
        arrivals=arrivals,
        created_at=begun,
        fingerprint=_unpacked(body.get("f", "")),
        participants=tuple(body.get("p", ())),
        past=tuple(body.get("q", ())),
        audit=from_rows(body.get("A", ())),
        deliveries=tuple(_delivery_of(row, ids) for row in body.get("D", ())),
        **values,
    )
    said = _said(entry.deliveries)
    return replace(entry, history=tuple(_attempt_of(row, entry, ids, said) for row in body.get("H", ())))


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
    a: Attempt, entry: Entry, ids: Mapping[str, int], said: Mapping[str, tuple[int | None, str]], mark: str
) -> list[Any]:
    task_id = "" if a.task_id == entry.owner else a.task_id
    place = ids.get(a.message_id, a.message_id)
    ended = None if a.ended_at is None else _time(a.ended_at, mark, entry.created_at)
    started = _time(a.started_at, mark, entry.created_at)
    reply = (a.code, a.detail)
    if reply == said.get(a.part):
        reply = (_AS_DELIVERED, "")
    who = [a.generation, a.part, a.worker, a.recipients]
    return [a.number, started, ended, a.outcome.value, *who, place, *reply, task_id]


def _attempt_of(
    row: list[Any], entry: Entry, ids: Sequence[str], said: Mapping[str, tuple[int | None, str]]
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
        started_at=_moment(started, entry.created_at),
        ended_at=None if ended is None else _moment(ended, entry.created_at),
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


def _time(moment: Moment, mark: str, base: Moment | None) -> int | str:
    if isinstance(moment, After):
        return f"{mark}{moment.seconds:.6f}"
    if isinstance(base, datetime) and abs(moment - base) < _FAR:
        return (moment - base) // _MICROSECOND
    return (moment - _EPOCH) // _MICROSECOND


def _moment(microseconds: int, base: Any = _EPOCH) -> datetime:
    """Return a time: since ``base`` where it is less than `_FAR`, which no time since the epoch is."""
    span = microseconds * _MICROSECOND
    return (base if abs(span) < _FAR else _EPOCH) + span


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
