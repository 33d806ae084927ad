"""The ledger's mark in a message's metadata: names the hand-over that an event is about, and no address.

The mark has three short fields, as Postmark takes 80 characters a value. Its signature keeps out made-up marks:
some providers sign less than the event's content, so their signatures can be replayed with other content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from django.core.signing import BadSignature, Signer

from ...ledger.provider_events import mark
from ...mail.transport_protocol import HandOverId

_SIGNER = "celery_idempotent.contrib.anymail"
_FORM = re.compile(r"(\d{1,9})\.(\d{1,9})\.([0-9a-f]{16})\.([we])")


@dataclass(frozen=True, slots=True)
class Mark:
    """One hand-over, as the metadata of a message names it."""

    KEY: ClassVar = "idem_key"
    PLACE: ClassVar = "idem_at"
    SIGNATURE: ClassVar = "idem_sig"

    key: str
    generation: int
    attempt: int
    message: str
    whole: bool

    @classmethod
    def write(cls, hand_over: HandOverId, whole: bool) -> dict[str, str]:
        """Return the metadata for a hand-over; ``whole`` if one request is for all recipients."""
        message = mark(hand_over.message_id, hand_over.begun_at)
        place = f"{hand_over.generation}.{hand_over.attempt}.{message}.{'w' if whole else 'e'}"
        signature = Signer(salt=_SIGNER).signature(f"{hand_over.key} {place}")
        return {cls.KEY: hand_over.key, cls.PLACE: place, cls.SIGNATURE: signature}

    @classmethod
    def read(cls, metadata: object) -> Mark | None:
        """Return the mark in ``metadata``; None if there is none, or one that this project has not made."""
        if not isinstance(metadata, Mapping):
            return None
        key, place, signature = (metadata.get(name) for name in (cls.KEY, cls.PLACE, cls.SIGNATURE))
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
        return cls(key, int(generation), int(attempt), message, whole == "w")
