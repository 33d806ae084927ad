"""Check the options of a call before it is kept, and put times in place of durations."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from celery.utils.time import maybe_make_aware
from kombu import compression

OURS = ("task_id", "producer", "publisher", "connection", "retry", "retry_policy", "argsrepr", "kwargsrepr")
"""Options of ``apply_async`` that the outbox sets itself."""
_DELIVERY_MODES = (1, 2, "transient", "persistent")
_TEXT, _NUMBER = (str, "a text"), ((int, float), "a number of seconds")
_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "headers": (Mapping, "a mapping from names to values"),
    "queue": (str, "the queue's name"),
    "exchange": (str, "the exchange's name"),
    "routing_key": _TEXT,
    "priority": (int, "a whole number"),
    "delivery_mode": ((int, str), "1, 2, 'transient' or 'persistent'"),
    "serializer": (str, "the serializer's name"),
    "compression": (str, "the name of a compression"),
    "time_limit": _NUMBER,
    "soft_time_limit": _NUMBER,
    "shadow": _TEXT,
}
"""Options that Celery takes in other forms, too, or looks at no earlier than when it publishes."""


def checked(task: Any, given: Mapping[str, object]) -> dict[str, Any]:
    """Return the options of one call as the outbox keeps them.

    A message may be published much later, and again, so a duration becomes a time. Raises `TypeError` or
    `ValueError` that names task and option: what no broker takes would wait in the outbox for ever.
    """
    if wrong := [name for name in OURS if name in given]:
        raise TypeError(f"{task.name}: enqueue sets {', '.join(wrong)} itself")
    options: dict[str, Any] = dict(given)
    _refuse_wrong_types(task, options)
    _refuse_unknown_names(task, options)
    now = datetime.now(timezone.utc)
    if countdown := options.pop("countdown", None):
        options["eta"] = _moment(task, "countdown", countdown, now)
    for name in ("eta", "expires"):
        if options.get(name) is not None:
            options[name] = _moment(task, name, options[name], now)
    return options


def _refuse_wrong_types(task: Any, options: Mapping[str, Any]) -> None:
    for name, (wanted, form) in _TYPES.items():
        value = options.get(name)
        if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise TypeError(f"{task.name}: {name} is {value!r}; it has to be {form}. Nothing was written")
    if strange := [name for name in options.get("headers") or () if not isinstance(name, str)]:
        raise TypeError(f"{task.name}: headers has {strange[0]!r}, which is no text. Nothing was written")


def _refuse_unknown_names(task: Any, options: Mapping[str, Any]) -> None:
    mode, packing = options.get("delivery_mode"), options.get("compression")
    if mode is not None and mode not in _DELIVERY_MODES:
        raise ValueError(
            f"{task.name}: delivery_mode is {mode!r}; it has to be {_TYPES['delivery_mode'][1]}. "
            "Nothing was written"
        )
    if packing is not None:
        try:
            compression.get_encoder(packing)
        except KeyError:
            known = ", ".join(compression.encoders())
            raise ValueError(
                f"{task.name}: compression is {packing!r}, which Kombu does not know; it knows {known}. "
                "Nothing was written"
            ) from None


def _moment(task: Any, name: str, value: Any, now: datetime) -> datetime:
    try:
        if isinstance(value, str) and name != "countdown":
            value = datetime.fromisoformat(value)
        when = value if isinstance(value, datetime) else now + timedelta(seconds=value)
        aware: datetime = maybe_make_aware(when, task.app.timezone)
        aware.astimezone(timezone.utc)  # as databases do
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"{task.name}: {name} is {value!r}, which is no time: give seconds"
            + (". " if name == "countdown" else ", or a datetime. ")
            + "Nothing was written"
        ) from error
    return aware
