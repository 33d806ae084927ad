"""The ledger's mark in a message's metadata: which hand-over an event is about. It never holds an address.

Three short fields, as Postmark takes 80 characters a value. The signature keeps out made-up marks: some
providers sign less than the event's content, and their signatures can be replayed with another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.signing import BadSignature, Signer

from ...ledger.provider_events import mark
from ...mail.transport_protocol import HandOverId

KEY, PLACE, SIGNATURE = "idem_key", "idem_at", "idem_sig"
_SIGNER = "celery_idempotent.contrib.anymail"
_FORM = re.compile(r"(\d{1,9})\.(\d{1,9})\.([0-9a-f]{16})\.([we])")


@dataclass(frozen=True, slots=True)
class Mark:
    """One hand-over, as a message's metadata names it."""

    key: str
    generation: int
    attempt: int
    message: str
    whole: bool


def write(hand_over: HandOverId, whole: bool) -> dict[str, str]:
    """Return the metadata for a hand-over; ``whole`` if it is one request for all recipients."""
    message = mark(hand_over.message_id, hand_over.begun_at)
    place = f"{hand_over.generation}.{hand_over.attempt}.{message}.{'w' if whole else 'e'}"
    signature = Signer(salt=_SIGNER).signature(f"{hand_over.key} {place}")
    return {KEY: hand_over.key, PLACE: place, SIGNATURE: signature}


def read(metadata: Any) -> Mark | None:
    """Return the mark in ``metadata``; None if there is none, or one that this project has not made."""
    if not isinstance(metadata, Mapping):
        return None
    key, place, signature = (metadata.get(name) for name in (KEY, PLACE, SIGNATURE))
    if not (isinstance(key, str) and isinstance(place, str) and isinstance(signature, str)):
        return None
    try:
        Signer(salt=_SIGNER).unsign(f"{key} {place}:{signature}")
    except BadSignature:
        return None
    found = _FORM.fullmatch(place)
    if found is None:
        return None
    generation, attempt, message, whole = found.groups()
    return Mark(key, int(generation), int(attempt), message, whole == "w")
