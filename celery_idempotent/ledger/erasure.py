"""Erase a recipient from an entry: the digest of the address, and every form that shows it."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .entry import Delivery, Entry, Recipient
from .status import Status

FORGOTTEN = "(forgotten)"


def nobody() -> Recipient:
    """Return what stands in for a recipient who was forgotten: random, so that nothing leads back."""
    return Recipient(secrets.token_hex(32), FORGOTTEN)


def scrubbed(text: str, words: Sequence[str]) -> str:
    """Return ``text`` without ``words``, whatever their case."""
    for word in words:
        # Not by the place in text.lower(): some letters, such as the Turkish İ, become two there.
        text = re.sub(re.escape(word), FORGOTTEN, text, flags=re.IGNORECASE)
    return text


def forgotten(entry: Entry, digest: str, words: Sequence[str]) -> Entry:
    """Return ``entry`` without the recipient ``digest``, whom ``words`` show.

    What was given up is cancelled, and what has a body to be finished counts as finished: whoever cannot be
    recognised any more could otherwise get it a second time. So the caller asks first whether anybody will
    still finish it.
    """

    def without(delivery: Delivery) -> Delivery:
        who = nobody() if delivery.recipient.digest == digest else delivery.recipient
        return replace(delivery, recipient=who, detail=scrubbed(delivery.detail, words))

    return replace(
        entry,
        status=Status.CANCELLED if entry.status is Status.FAILED else entry.status,
        deadline=None,
        unfinished=False,
        label=scrubbed(entry.label, words),
        result=None if _shows(entry.result, words) else entry.result,
        deliveries=tuple(without(delivery) for delivery in entry.deliveries),
        history=tuple(replace(a, detail=scrubbed(a.detail, words)) for a in entry.history),
        audit=tuple(
            replace(one, actor=scrubbed(one.actor, words), reason=scrubbed(one.reason, words))
            for one in entry.audit
        ),
    )


def _shows(result: Any, words: Sequence[str]) -> bool:
    text = json.dumps(result, ensure_ascii=False).lower()
    return any(word.lower() in text for word in words)
