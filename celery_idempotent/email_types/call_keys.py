"""What one call is to the ledger: its key, fingerprint and label, and the note that carries them with a job."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.dateparse import parse_datetime

from ..conf import conf
from ..exceptions import KeyFieldError
from ..ledger.addresses import digest_all, is_address, mask_all, normalise, printable
from ..ledger.keys import bucket_for, digest, make_key
from .options import LONGEST_TYPE, email_type, plain, refuse_unusable_window, signature_of


@dataclass(frozen=True, slots=True)
class Identity:
    """What one call of a task is, to the ledger. Travels in the message's headers."""

    key: str
    fingerprint: str
    label: str


class CallKeys:
    """Computes `Identity` from the bound arguments of a task's ``run``."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.signature = signature_of(task)

    def identify(self, args: Any, kwargs: Any) -> Identity:
        """Return key, fingerprint and label of the call. Raises `KeyFieldError`, naming task and field."""
        task = self.task
        bound = self._bind(args or (), kwargs or {})
        fields = self._fields(args or (), kwargs or {}, bound)
        name = email_type(task)
        if not 0 < len(name) <= LONGEST_TYPE:
            raise KeyFieldError(f"{task.name}: email_type has {len(name)} characters; 1 to {LONGEST_TYPE} fit")
        key = make_key(conf.namespace, name, fields, self._bucket(bound))
        return Identity(key, self._fingerprint(bound), label(fields))

    def _bind(self, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise KeyFieldError(f"{self.task.name}: the call does not fit the task: {error}") from None
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name))
        return arguments

    def _fields(self, args: Any, kwargs: Any, bound: Mapping[str, Any]) -> dict[str, Any]:
        task = self.task
        key_function = plain(task, "key_function")
        if key_function is not None:
            value = key_function(*args, **kwargs)
            if value is None or value == "":
                raise KeyFieldError(f"{task.name}: key_function returned {value!r}; it has to name the event")
            return {"key_function": folded(value)}
        if isinstance(task.key_fields, str):
            text = task.key_fields
            raise KeyFieldError(f"{task.name}: key_fields is the string {text!r}; make it a tuple: ({text!r},)")
        if not task.key_fields:
            raise KeyFieldError(
                f"{task.name}: declare key_fields=(…) or key_function, so that two events can be told apart"
            )
        return {path: self._key_field(path, bound) for path in task.key_fields}

    def _key_field(self, path: str, bound: Mapping[str, Any]) -> Any:
        value = folded(self._lookup(path, bound))
        if value is None or value == "":
            raise KeyFieldError(
                f"{self.task.name}: key field {path!r} is {value!r}, which identifies nothing: all such calls "
                "would be one email. Pass its value, or correct key_fields"
            )
        return value

    def _lookup(self, path: str, bound: Mapping[str, Any]) -> Any:
        names = path.split(".")
        value: Any = bound
        for name in names:
            try:
                value = value[name] if isinstance(value, Mapping) else getattr(value, name)
            except (KeyError, AttributeError):
                given = f"its arguments ({', '.join(bound) or 'none'})"
                where = given if value is bound else type(value).__name__
                raise KeyFieldError(
                    f"{self.task.name}: key field {path!r} is missing from the call: no {name!r} in {where}. "
                    "Pass it, or correct key_fields"
                ) from None
        return value

    def _bucket(self, bound: Mapping[str, Any]) -> str | None:
        task = self.task
        refuse_unusable_window(task)
        if task.window_mode != "fixed":
            return None
        path = task.event_time_field
        when = self._lookup(path, bound)
        if isinstance(when, str):
            when = _moment(when)
        if not isinstance(when, datetime):
            raise KeyFieldError(
                f"{task.name}: event_time_field {path!r} has to be an aware datetime, or one as ISO 8601 text"
            )
        if when.utcoffset() is None:
            raise KeyFieldError(
                f"{task.name}: event_time_field {path!r} is a naive datetime, which names no instant; "
                "make it aware"
            )
        return bucket_for(when, task.window)

    def _fingerprint(self, bound: Mapping[str, Any]) -> str:
        task = self.task
        if task.on_mismatch == "ignore":
            return ""
        if task.fingerprint_fields is not None:
            fields = {path: self._lookup(path, bound) for path in task.fingerprint_fields}
        else:
            fields = {name: value for name, value in bound.items() if name not in task.key_fields}
            if task.window_mode == "fixed":  # the bucket is in the key; where in it, makes no difference
                fields = _without(fields, task.event_time_field.split("."))
        try:
            return digest(fields)
        except KeyFieldError:
            return ""  # arguments of any type are allowed outside the key; they just cannot be compared


def _without(fields: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return ``fields`` without the value at ``path``, which leads through mappings; with all else in them."""
    first, *rest = path
    if not rest:
        return {name: value for name, value in fields.items() if name != first}
    inner = fields.get(first)
    return {**fields, first: _without(inner, rest)} if isinstance(inner, Mapping) else dict(fields)


def _moment(text: str) -> datetime | None:
    try:
        return parse_datetime(text)  # unlike Python 3.10's own, it knows the Z of UTC
    except ValueError:
        return None


def folded(value: Any) -> Any:
    """Return ``value`` with addresses in their one normal form, alone or in a list."""
    if isinstance(value, str) and is_address(value):
        return normalise(value)
    if isinstance(value, list | tuple):
        return [folded(item) for item in value]
    return value


def label(fields: Mapping[str, Any]) -> str:
    """Return ``fields`` for people to read, addresses masked, or as digests where nothing of them is stored."""
    return ", ".join(f"{name}={_shown(value)}" for name, value in fields.items())


def _shown(value: Any) -> str:
    text = printable(str(value))
    return digest_all(text, conf.recipient_salt) if conf.recipients == "digest" else mask_all(text)
