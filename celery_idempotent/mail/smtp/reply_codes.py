"""What a mail server's reply means: a table over reply codes (RFC 5321 §4.2) and enhanced codes (RFC 3463)."""

from __future__ import annotations

import logging
import re
from enum import Enum

from ...conf import conf
from ...ledger.addresses import printable
from ...ledger.outcomes import Reply
from ...ledger.status import DeliveryStatus


class Kind(str, Enum):
    """What a reply says about the mail. The values are what ``CLASSIFY_REPLY`` may return."""

    ACCEPTED = "accepted"
    """Yes: the server has it, or takes this recipient."""
    TEMPORARY = "temporary"
    """No, for now: offered again by a retry."""
    PERMANENT = "permanent"
    """No, for good: never offered again within the generation."""
    LIMIT = "limit"
    """No to so many recipients at once: offered again in a smaller transaction."""
    UNKNOWN = "unknown"
    """Nothing that can be relied upon. After the payload that is a doubt, before it the end of the try."""

    def __str__(self) -> str:
        return self.value


_MANY = (
    r"too many (recipients|rcpts?\b|to addresses)|recipients? (count|limit|number)\b.{0,20}exceed"
    r"|exceed.{0,30}(number|count|limit) of recipients|more than \d+ recipients"
)
TABLE: tuple[tuple[Kind, bool, re.Pattern[str]], ...] = (
    (Kind.LIMIT, False, re.compile(r"[45]\d\d [45]\.5\.3\b")),
    (Kind.LIMIT, False, re.compile(rf"[45]\d\d .*({_MANY})", re.DOTALL | re.IGNORECASE)),
    # RFC 5321 §4.5.3.1.10: the code for this is 452, and an old server's 552 means the same.
    (Kind.LIMIT, True, re.compile(r"[45]52 (?![45]\.\d)")),
    # The second digit 5 is the mail system's (§4.2.1): 220 or 221 is no answer to a payload.
    (Kind.ACCEPTED, False, re.compile(r"25\d ")),
    (Kind.TEMPORARY, False, re.compile(r"4\d\d ")),
    (Kind.PERMANENT, False, re.compile(r"5\d\d ")),
)
"""Kind, whether for RCPT alone, and what "code text" begins with. The first that fits; none: unknown.

Where reply code and enhanced code contradict each other, the reply code counts (RFC 5321 §4.2).
"""


def kind_of(code: int, text: str, at_rcpt: bool = False) -> Kind:
    """Return what a reply says, by `TABLE`."""
    reply = f"{code} {text}"
    for kind, rcpt_only, pattern in TABLE:
        if (at_rcpt or not rcpt_only) and pattern.match(reply):
            return kind
    return Kind.UNKNOWN


_TOO_LARGE = re.compile(r"552 (?![245]\.)|5\d\d 5\.(3\.4|2\.3)\b")


def is_too_large(code: int, text: str) -> bool:
    """Tell whether a reply to MAIL refuses the message for its size (RFC 1870 §6, RFC 3463 §3.3, §3.4)."""
    return _TOO_LARGE.match(f"{code} {text}") is not None


_NOT_UTF8 = re.compile(r"5\d\d 5\.6\.7\b")


def is_about_utf8(code: int, text: str) -> bool:
    """Tell whether a reply refuses what needs SMTPUTF8 (RFC 6531 §3.5)."""
    return _NOT_UTF8.match(f"{code} {text}") is not None


GREYLISTED_SECONDS = 300.0
"""Seconds to wait for a server that does not say how long; what most greylisting software starts with."""
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 3600.0
"""Bounds, in seconds, for what a server asks for."""

_GREYLISTED = re.compile(r"4\d\d 4\.7\.\d+\b|4\d\d .*gr[ea]y.?list", re.DOTALL | re.IGNORECASE)
_CUE = r"(?:again|retry|retries|come back|wait|delay(?:ed)?|defer(?:red)?|list(?:ed|ing))\b[^\d]{0,40}"
_CLOCK = re.compile(_CUE + r"(\d{1,2}):(\d\d):(\d\d)\b", re.IGNORECASE)
_UNITS = re.compile(
    _CUE + r"(?:(\d{1,6}) ?(?:h|hrs?|hours?)\b)?\W*(?:(\d{1,6}) ?(?:m|mins?|minutes?)\b)?"
    r"\W*(?:(\d{1,6}) ?(?:s|secs?|seconds?)\b)?",
    re.IGNORECASE,
)


def wait_for(code: int | None, text: str) -> float | None:
    """Return the seconds after which a deferred recipient is worth another try, or None if nothing says so.

    What the server asks for, within bounds; otherwise `GREYLISTED_SECONDS` for greylisting (RFC 6647) and
    other policy deferrals (4.7.x).
    """
    if code is None:
        return None
    asked = _asked_for(text)
    if asked is not None:
        return min(max(asked, SHORTEST_WAIT), LONGEST_WAIT)
    return GREYLISTED_SECONDS if _GREYLISTED.match(f"{code} {text}") else None


def _asked_for(text: str) -> float | None:
    for pattern in (_CLOCK, _UNITS):
        for found in pattern.finditer(text):
            if any(found.groups()):
                hours, minutes, seconds = (int(group or 0) for group in found.groups())
                return hours * 3600.0 + minutes * 60.0 + seconds
    return None


logger = logging.getLogger("celery_idempotent")

LONGEST_TEXT = 2000

STATUS = {
    Kind.ACCEPTED: DeliveryStatus.ACCEPTED,
    Kind.TEMPORARY: DeliveryStatus.DEFERRED,
    Kind.LIMIT: DeliveryStatus.DEFERRED,
    Kind.PERMANENT: DeliveryStatus.REFUSED,
    Kind.UNKNOWN: DeliveryStatus.IN_DOUBT,
}


def readable(text: bytes | str) -> str:
    """Return the text of a reply on one line, as every store can keep it, and no more than is worth reading."""
    text = text[:LONGEST_TEXT]
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return " ".join(printable(said).split())


def kind(code: int, text: bytes | str, at_rcpt: bool = False) -> Kind:
    """Return what a reply says: by ``CLASSIFY_REPLY``, and by the table where that returns None or raises."""
    said = readable(text)
    own = own_reading(code, said)
    return kind_of(code, said, at_rcpt) if own is None else own


def own_reading(code: int, text: str) -> Kind | None:
    """Return what ``CLASSIFY_REPLY`` says of a reply, or None where it leaves that to the table."""
    try:
        hook = conf.classify_reply
        own = hook(code, readable(text)) if hook is not None else None
        return None if own is None else Kind(own)
    except Exception:  # a reply that has come must not be lost by a mistake in reading it
        logger.exception("CLASSIFY_REPLY cannot be used for the reply code %s; the table decides", code)
        return None


def refusal(said: Kind, code: int, text: bytes | str) -> Reply:
    """Return a reply to something before the payload, to which the server did not say yes: definite."""
    status = DeliveryStatus.REFUSED if said is Kind.PERMANENT else DeliveryStatus.DEFERRED
    return Reply(status, _recorded(code), readable(text))


def read_reply(code: int, text: bytes | str) -> tuple[Kind, Reply]:
    """Return what the reply to a payload says; one that says nothing is a doubt."""
    said = kind(code, text)
    return said, Reply(STATUS[said], _recorded(code), readable(text))


def unoffered(code: int, text: bytes | str) -> Reply:
    """Return the reply that ended a transaction before its payload, for those whom it was not about."""
    return Reply(DeliveryStatus.DEFERRED, _recorded(code), readable(text))


def _recorded(code: int) -> int | None:
    return code if 100 <= code <= 599 else None
