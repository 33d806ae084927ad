"""SMTP reply codes: what a server's reply means, by a table (RFC 5321 §4.2, RFC 3463) or ``CLASSIFY_REPLY``."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from enum import Enum

from ...conf import conf
from ...ledger.addresses import printable
from ...ledger.outcomes import Reply
from ...ledger.status import DeliveryStatus

logger = logging.getLogger("celery_idempotent")

_LONGEST_TEXT = 2000


class Kind(str, Enum):
    """Meaning of a reply for the mail. The values are those that ``CLASSIFY_REPLY`` may return."""

    ACCEPTED = "accepted"
    """Yes: the server has it, or takes this recipient."""
    TEMPORARY = "temporary"
    """No, for now: offered again by a retry."""
    PERMANENT = "permanent"
    """No, for good: never offered again within the generation."""
    LIMIT = "limit"
    """No to so many recipients at once: offered again in a smaller transaction."""
    UNKNOWN = "unknown"
    """No meaning to rely upon: after the payload a doubt, before the payload the end of the attempt."""

    def __str__(self) -> str:
        return self.value

    @property
    def status(self) -> DeliveryStatus:
        """Status of the deliveries whose payload got a reply of this kind."""
        return _STATUS[self]

    @property
    def status_before_payload(self) -> DeliveryStatus:
        """Status of the deliveries that a reply of this kind ends before their payload: never in doubt."""
        return DeliveryStatus.REFUSED if self is Kind.PERMANENT else DeliveryStatus.DEFERRED

    @classmethod
    def look_up(cls, code: int, text: str, at_rcpt: bool = False) -> Kind:
        """Return the kind of a reply by `TABLE`; ``at_rcpt`` if it answers RCPT."""
        reply = f"{code} {text}"
        for kind, rcpt_only, pattern in TABLE:
            if (at_rcpt or not rcpt_only) and pattern.match(reply):
                return kind
        return cls.UNKNOWN


_STATUS = {
    Kind.ACCEPTED: DeliveryStatus.ACCEPTED,
    Kind.TEMPORARY: DeliveryStatus.DEFERRED,
    Kind.LIMIT: DeliveryStatus.DEFERRED,
    Kind.PERMANENT: DeliveryStatus.REFUSED,
    Kind.UNKNOWN: DeliveryStatus.IN_DOUBT,
}

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
"""Kind, "for RCPT alone", and a pattern for "code text". The first row that fits decides; none: unknown.

Where reply code and enhanced code contradict each other, the reply code counts (RFC 5321 §4.2).
"""
_TOO_LARGE = re.compile(r"552 (?![245]\.)|5\d\d 5\.(3\.4|2\.3)\b")
_NOT_UTF8 = re.compile(r"5\d\d 5\.6\.7\b")


@dataclass(frozen=True, slots=True)
class ServerReply:
    """One reply of a mail server: its code, and its text on one line."""

    code: int
    text: str

    @classmethod
    def read(cls, code: int, text: bytes | str) -> ServerReply:
        """Return the reply with a text that every store can keep, and no longer than is worth reading."""
        text = text[:_LONGEST_TEXT]
        decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        return cls(code, " ".join(printable(decoded).split()))

    @property
    def is_positive(self) -> bool:
        """True if the server agrees to MAIL or RCPT."""
        return 250 <= self.code <= 259

    def classify(self, at_rcpt: bool = False) -> Kind:
        """Return the kind by ``CLASSIFY_REPLY``, or by `TABLE` where the hook returns None or raises."""
        return self.ask_hook() or Kind.look_up(self.code, self.text, at_rcpt)

    def ask_hook(self) -> Kind | None:
        """Return the kind by ``CLASSIFY_REPLY``, or None where the hook leaves it to the table or raises."""
        try:
            hook = conf.classify_reply
            own = hook(self.code, self.text) if hook is not None else None
            return None if own is None else Kind(own)
        except Exception:  # a reply that has come must not be lost by a mistake in reading it
            logger.exception(
                "CLASSIFY_REPLY cannot be used for the reply code %s; the table decides", self.code
            )
            return None

    def refuses_size(self) -> bool:
        """Tell whether a reply to MAIL refuses the message for its size (RFC 1870 §6, RFC 3463 §3.3, §3.4)."""
        return _TOO_LARGE.match(f"{self.code} {self.text}") is not None

    def refuses_utf8(self) -> bool:
        """Tell whether the reply refuses a mail that needs SMTPUTF8 (RFC 6531 §3.5)."""
        return _NOT_UTF8.match(f"{self.code} {self.text}") is not None

    def to_ledger(self, status: DeliveryStatus) -> Reply:
        """Return the ledger's record of this reply for deliveries with ``status``."""
        return Reply(status, self.code if 100 <= self.code <= 599 else None, self.text)
