"""Parsers for the arguments of the command: durations, numbers, pairs."""

from __future__ import annotations

import argparse
import getpass
import os
import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=36_500)
"""Some databases have no dates before that."""
_LARGEST = 1_000_000


def duration(text: str) -> timedelta:
    """Return the time span of a text such as ``90d``, ``12h``, ``30m`` or ``45s``."""
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)([smhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90d, 12h, 30m or 45s")
    try:
        value = timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError:
        value = timedelta.max
    if value > _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is longer than any email is kept")
    if value < timedelta(0):
        raise argparse.ArgumentTypeError(f"{text!r} is negative; write how old it has to be, such as 90d")
    return value


def positive(text: str) -> int:
    """Return a number from 1 to `_LARGEST`."""
    if not text.isdecimal() or not 1 <= int(text) <= _LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} has to be a whole number from 1 to {_LARGEST}")
    return int(text)


def pair(text: str) -> tuple[str, str]:
    """Return the name and the value of ``name=value``."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} has to be name=value, such as order_id=7")
    return name, value


def login() -> str:
    """Return the account of this process: its name, or its number where it has none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
