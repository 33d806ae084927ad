"""Waiting times that a mail server asks for in the text of a temporary refusal."""

from __future__ import annotations

import re

_GREYLISTED_WAIT = 300.0
"""Seconds to wait where the server names no time: the first delay of most greylisting software."""
_SHORTEST_WAIT, _LONGEST_WAIT = 1.0, 3600.0
"""Bounds, in seconds, for a time that a server names."""

_GREYLISTED = re.compile(r"4\d\d 4\.7\.\d+\b|4\d\d .*gr[ea]y.?list", re.DOTALL | re.IGNORECASE)
_CUE = r"(?:again|retry|retries|come back|wait|delay(?:ed)?|defer(?:red)?|list(?:ed|ing))\b[^\d]{0,40}"
_CLOCK = re.compile(_CUE + r"(\d{1,2}):(\d\d):(\d\d)\b", re.IGNORECASE)
_UNITS = re.compile(
    _CUE + r"(?:(\d{1,6}) ?(?:h|hrs?|hours?)\b)?\W*(?:(\d{1,6}) ?(?:m|mins?|minutes?)\b)?"
    r"\W*(?:(\d{1,6}) ?(?:s|secs?|seconds?)\b)?",
    re.IGNORECASE,
)


def read_wait(code: int | None, text: str) -> float | None:
    """Return the seconds until a deferred recipient is worth another try, or None if the reply gives no hint.

    A time in the text counts, within bounds; otherwise `_GREYLISTED_WAIT` for greylisting (RFC 6647) and
    other policy deferrals (4.7.x).
    """
    if code is None:
        return None
    asked = _parse_wait(text)
    if asked is not None:
        return min(max(asked, _SHORTEST_WAIT), _LONGEST_WAIT)
    return _GREYLISTED_WAIT if _GREYLISTED.match(f"{code} {text}") else None


def _parse_wait(text: str) -> float | None:
    for pattern in (_CLOCK, _UNITS):
        for found in pattern.finditer(text):
            if any(found.groups()):
                hours, minutes, seconds = (int(group or 0) for group in found.groups())
                return hours * 3600.0 + minutes * 60.0 + seconds
    return None
