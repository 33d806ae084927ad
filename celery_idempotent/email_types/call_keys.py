"""The key of one call, with a fingerprint of its content and a label for people."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.dateparse import parse_datetime

from ..conf import conf
from ..exceptions import KeyFieldError
from ..ledger.addresses import digest_all, is_address, mask_all, normalise, printable
from ..ledger.keys import bucket_for, digest, make_key
from .email_type import EmailType
from .options import LONGEST_TYPE, Args, Kwargs


@dataclass(frozen=True, slots=True)
class Identity:
    """What one call of a task is, to the ledger. Travels in the message's headers."""

    key: str
    fingerprint: str
    label: str


def identify(kind: EmailType, args: Args, kwargs: Kwargs) -> Identity:
    """Return what a call of ``kind`` is to the ledger. Raises `KeyFieldError`, naming task and field."""
    return _CallKeys(kind).identify(args or (), kwargs or {})


class _CallKeys:
    """Computes `Identity` from the bound arguments of a task's ``run``."""

    def __init__(self, kind: EmailType) -> None:
        self.kind = kind
        self.name = kind.task_name

    def identify(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Identity:
        kind = self.kind
        bound = self._bind(args, kwargs)
        fields = self._fields(args, kwargs, bound)
        if not 0 < len(kind.name) <= LONGEST_TYPE:
            length = len(kind.name)
            raise KeyFieldError(f"{self.name}: email_type has {length} characters; 1 to {LONGEST_TYPE} fit")
        key = make_key(conf.namespace, kind.name, fields, self._bucket(bound))
        return Identity(key, self._fingerprint(bound), label(fields))

    def _bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
        try:
            bound = self.kind.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise KeyFieldError(f"{self.name}: the call does not fit the task: {error}") from None
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        for name, parameter in self.kind.signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name))
        return arguments

    def _fields(
        self, args: Sequence[object], kwargs: Mapping[str, object], bound: Mapping[str, object]
    ) -> dict[str, object]:
        kind = self.kind
        key_function = kind.key_function
        if key_function is not None:
            value = key_function(*args, **kwargs)
            if value is None or value == "":
                raise KeyFieldError(f"{self.name}: key_function returned {value!r}; it has to name the event")
            return {"key_function": folded(value)}
        if isinstance(kind.key_fields, str):
            text = kind.key_fields
            raise KeyFieldError(f"{self.name}: key_fields is the string {text!r}; make it a tuple: ({text!r},)")
        if not kind.key_fields:
            raise KeyFieldError(
                f"{self.name}: declare key_fields=(…) or key_function, so that two events can be told apart"
            )
        return {path: self._key_field(path, bound) for path in kind.key_fields}

    def _key_field(self, path: str, bound: Mapping[str, object]) -> object:
        value = folded(self._lookup(path, bound))
        if value is None or value == "":
            raise KeyFieldError(
                f"{self.name}: key field {path!r} is {value!r}, which identifies nothing: all such calls "
                "would be one email. Pass its value, or correct key_fields"
            )
        return value

    def _lookup(self, path: str, bound: Mapping[str, object]) -> object:
        names = path.split(".")
        value: object = bound
        for name in names:
            try:
                value = value[name] if isinstance(value, Mapping) else getattr(value, name)
            except (KeyError, AttributeError):
                given = f"its arguments ({', '.join(bound) or 'none'})"
                where = given if value is bound else type(value).__name__
                raise KeyFieldError(
                    f"{self.name}: key field {path!r} is missing from the call: no {name!r} in {where}. "
                    "Pass it, or correct key_fields"
                ) from None
        return value

    def _bucket(self, bound: Mapping[str, object]) -> str | None:
        kind = self.kind
        kind.refuse_unusable_window()
        if kind.window_mode != "fixed":
            return None
        path = kind.event_time_field or ""
        when = self._lookup(path, bound)
        if isinstance(when, str):
            when = _moment(when)
        if not isinstance(when, datetime):
            raise KeyFieldError(
                f"{self.name}: event_time_field {path!r} has to be an aware datetime, or one as ISO 8601 text"
            )
        if when.utcoffset() is None:
            raise KeyFieldError(
                f"{self.name}: event_time_field {path!r} is a naive datetime, which names no instant; "
                "make it aware"
            )
        assert kind.window is not None  # or refused above
        return bucket_for(when, kind.window)

    def _fingerprint(self, bound: Mapping[str, object]) -> str:
        kind = self.kind
        if kind.on_mismatch == "ignore":
            return ""
        if kind.fingerprint_fields is not None:
            fields = {path: self._lookup(path, bound) for path in kind.fingerprint_fields}
        else:
            fields = {name: value for name, value in bound.items() if name not in kind.key_fields}
            if kind.window_mode == "fixed":  # the bucket is in the key; where in it, makes no difference
                fields = _without(fields, (kind.event_time_field or "").split("."))
        try:
            return digest(fields)
        except KeyFieldError:
            return ""  # arguments of any type are allowed outside the key; they just cannot be compared


def _without(fields: Mapping[str, object], path: Sequence[str]) -> dict[str, object]:
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


def folded(value: object) -> object:
    """Return ``value`` with addresses in their one normal form, alone or in a list."""
    if isinstance(value, str) and is_address(value):
        return normalise(value)
    if isinstance(value, list | tuple):
        return [folded(item) for item in value]
    return value


def label(fields: Mapping[str, object]) -> str:
    """Return ``fields`` for people to read, addresses masked, or as digests where nothing of them is stored."""
    return ", ".join(f"{name}={_shown(value)}" for name, value in fields.items())


def _shown(value: object) -> str:
    text = printable(str(value))
    return digest_all(text, conf.recipient_salt) if conf.recipients == "digest" else mask_all(text)
