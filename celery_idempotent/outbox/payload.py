"""Serialise a message's arguments and options, and encrypt them where the project has keys."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import Celery
from kombu import serialization
from kombu.exceptions import SerializerNotInstalled
from kombu.utils import json

from .. import encryption
from ..exceptions import ArgumentsNotSerializable

_DUMP: Callable[..., tuple[str, str, str | bytes]] = serialization.dumps
_LOAD: Callable[..., Any] = serialization.loads
_ACCEPTED: Callable[..., set[str] | None] = serialization.prepare_accept_content
_ENCODE: Callable[[object], str] = json.dumps
_DECODE: Callable[[str], Any] = json.loads


class Unsendable(Exception):
    """Raised for a message that cannot be published now; its text says why, and quotes no argument."""


def pack(task: Any, args: Sequence[object], kwargs: Mapping[str, object], options: Mapping[str, object]) -> str:
    """Return what the outbox keeps. Raises `ArgumentsNotSerializable`, naming argument or serializer."""
    serializer = str(options.get("serializer") or task.serializer or "json")
    try:
        kind, encoding, body = _DUMP((list(args), dict(kwargs)), serializer=serializer)
    except SerializerNotInstalled as error:
        raise ArgumentsNotSerializable(
            f"{task.name}: Celery knows no serializer {serializer!r}. Name one that it knows, such as 'json', "
            "or register this one with kombu.serialization.register. Nothing was written"
        ) from error
    except Exception as error:
        raise ArgumentsNotSerializable(_blame(task, args, kwargs, serializer)) from error
    if kind not in (_ACCEPTED(task.app.conf.accept_content or []) or ()):
        raise ArgumentsNotSerializable(
            f"{task.name}: serializer is {serializer!r}, whose {kind} is not in accept_content, so no worker "
            "would read the message. Add it there, or take another serializer. Nothing was written"
        )
    text = body if isinstance(body, str) else b64encode(body).decode()
    form = {"type": kind, "encoding": encoding, "binary": not isinstance(body, str)}
    try:
        return _ENCODE({**form, "body": text, "options": dict(options)})
    except Exception as error:
        raise ArgumentsNotSerializable(
            f"{task.name}: the options {', '.join(options)} have to be plain values to be kept in the outbox: "
            "name a queue by its name, and give links as signatures. Nothing was written"
        ) from error


def _blame(task: Any, args: Sequence[object], kwargs: Mapping[str, object], serializer: str) -> str:
    named = [*((f"argument {place + 1}", value) for place, value in enumerate(args)), *kwargs.items()]
    for name, value in named:
        try:
            _DUMP(value, serializer=serializer)
        except Exception:
            return (
                f"{task.name}: {name} is of type {type(value).__name__}, which Celery's serializer "
                f"{serializer!r} cannot write, so no worker would ever get it. "
                "Pass plain values, such as a primary key. Nothing was written"
            )
    return f"{task.name}: Celery's serializer {serializer!r} cannot write the arguments. Nothing was written"


def unpack(text: str, app: Celery) -> tuple[list[object], dict[str, object], dict[str, Any]]:
    """Return args, kwargs and options of what `pack` made. Raises `Unsendable`."""
    try:
        form = _DECODE(text)
        body = b64decode(form["body"]) if form["binary"] else form["body"]
        accept = _ACCEPTED(app.conf.accept_content or [])
        args, kwargs = _LOAD(body, form["type"], form["encoding"], accept=accept)
        return list(args), dict(kwargs), dict(form["options"])
    except Exception as error:
        raise Unsendable(
            f"its arguments cannot be read ({type(error).__name__}). Is the serializer that they were written "
            "with still in accept_content?"
        ) from error


def seal(text: str) -> tuple[str, bool]:
    """Return ``text`` as it is to be stored, and whether that is encrypted."""
    return (encryption.encrypt(text.encode()), True) if encryption.can_encrypt() else (text, False)


def unseal(text: str, encrypted: bool) -> str:
    """Return what `seal` was given. Raises `Unsendable` where no key opens it."""
    if not encrypted:
        return text
    try:
        return encryption.decrypt(text).decode()
    except encryption.CannotDecrypt as error:
        raise Unsendable(
            f"its arguments are encrypted: {error}. Put the key that they were encrypted with back, behind "
            "the new one, until the outbox is empty"
        ) from None
