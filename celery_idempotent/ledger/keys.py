"""Idempotency keys: a canonical, typed, unambiguous encoding of field values, then SHA-256.

The digest carries `FORMAT`. Known digests are pinned by a test: a change here that alters them reopens
every key in every ledger, so it has to come with a new format number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from ..exceptions import KeyFieldError

FORMAT = 1
"""Version of the encoding below. It leads every key and is part of what is hashed."""


def canonical(value: object) -> Any:
    """Return a JSON-able form of ``value`` in which values of different types never look alike.

    Raises `KeyFieldError` for a type that has no canonical form.
    """
    if isinstance(value, Enum) and not isinstance(value, str | int):  # those are their values, also in JSON
        return ["enum", type(value).__name__, canonical(value.value)]
    for types, encode in _ENCODERS:
        if isinstance(value, types):
            return encode(value)
    raise KeyFieldError(
        f"a value of type {type(value).__qualname__} has no canonical form; pass a str, int, bool, None, "
        "Decimal, float, UUID, datetime, date, time, timedelta, Enum, or a list or mapping of these "
        "(for a model instance, pass its primary key)"
    )


def _float(value: float) -> list[str]:
    if value != value or value in (float("inf"), float("-inf")):
        raise KeyFieldError(f"{value!r} is not a number that can identify anything")
    return ["float", (value + 0.0).hex()]


def _decimal(value: Decimal) -> list[str]:
    if not value.is_finite():
        raise KeyFieldError(f"{value!r} is not a number that can identify anything")
    text = format(value.normalize(), "f") if value else "0"
    return ["decimal", text]


def _datetime(value: datetime) -> list[str]:
    if value.utcoffset() is None:
        raise KeyFieldError("a naive datetime names no instant; make it aware")
    return ["datetime", value.astimezone(timezone.utc).isoformat(timespec="microseconds")]


def _mapping(value: Mapping[Any, Any]) -> list[Any]:
    pairs = [[canonical(_json_key(key)), canonical(item)] for key, item in value.items()]
    return ["map", sorted(pairs, key=lambda pair: json.dumps(pair[0]))]


def _json_key(key: Any) -> Any:
    """Return a mapping's key as it is once the message has been through JSON, which knows text keys alone."""
    return str(int(key)) if isinstance(key, int) and not isinstance(key, bool) else key


def _timedelta(value: timedelta) -> list[Any]:
    return ["timedelta", value // timedelta(microseconds=1)]


# Order matters: bool is an int, datetime is a date.
_ENCODERS: tuple[tuple[Any, Any], ...] = (
    (type(None), lambda value: ["null"]),
    (bool, lambda value: ["bool", value]),
    (int, lambda value: ["int", str(int(value))]),
    (str, lambda value: ["str", str.__str__(value)]),
    (bytes, lambda value: ["bytes", value.hex()]),
    (float, _float),
    (Decimal, _decimal),
    (UUID, lambda value: ["uuid", value.hex]),
    (datetime, _datetime),
    (date, lambda value: ["date", value.isoformat()]),
    (time, lambda value: ["time", value.isoformat(timespec="microseconds")]),
    (timedelta, _timedelta),
    (Mapping, _mapping),
    (list | tuple, lambda value: ["list", [canonical(item) for item in value]]),
    (set | frozenset, lambda value: ["set", sorted((canonical(item) for item in value), key=json.dumps)]),
)


def digest(*values: Any) -> str:
    """Return the SHA-256 hex digest of the canonical form of ``values``, format version included.

    Raises `KeyFieldError` as `canonical` does.
    """
    text = json.dumps([FORMAT, canonical(list(values))], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def make_key(namespace: str, email_type: str, fields: Mapping[str, object], bucket: str | None = None) -> str:
    """Return the key of a logical email: ``"<format>:<sha-256 hex>"`` (66 characters in format 1).

    ``bucket`` is the fixed window the event falls into, or None. Raises `KeyFieldError`, naming the field.
    """
    for name, value in fields.items():
        try:
            canonical(value)
        except KeyFieldError as error:
            raise KeyFieldError(f"{email_type}: key field {name!r}: {error}") from None
    return f"{FORMAT}:{digest(namespace, email_type, dict(fields), bucket)}"


def bucket_for(when: datetime, window: timedelta) -> str:
    """Return the fixed window that ``when`` (aware) falls into, counted from the Unix epoch in UTC.

    Raises `KeyFieldError` for a naive ``when``.
    """
    if when.utcoffset() is None:
        raise KeyFieldError("the event time is a naive datetime and names no instant; make it aware")
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    return str((when - epoch) // window)
