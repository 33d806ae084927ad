"""Functions with options: what a task class is to Celery, for queues whose jobs are plain functions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload
from uuid import uuid4
from weakref import WeakSet

from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured

from ..email_types.call_keys import Identity, identify
from ..email_types.email_type import email_type_of
from ..email_types.job_note import JobNote
from ..email_types.options import Declaration, FunctionOptions
from ..email_types.problems import problems
from ..ledger.entry import Entry
from ..mail_settings import backend_in_place
from ..stores.factory import get_ledger
from .body import run_body
from .call import AfterBody, Call, Ending
from .claim import claim

_P = ParamSpec("_P")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)
Body = Callable[[], object]

OPTIONS = tuple(FunctionOptions.__annotations__)


class Declared(Declaration):
    """A function and what it declares. Raises `ImproperlyConfigured` for options that cannot be used."""

    def __init__(
        self, function: Callable[..., object], sends_mail: bool, options: Mapping[str, object]
    ) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.run = function
        self.sends_mail = sends_mail
        self.sender: object = function
        """What `declare` returns in the function's place: the signals' sender."""
        for name, value in options.items():
            if name not in OPTIONS:
                raise ImproperlyConfigured(f"{self.name}: there is no option {name!r}. {_meant(name)}")
            setattr(self, name, value)
        for name, text in problems(email_type_of(self)):
            raise ImproperlyConfigured(f"{self.name}: {name} {text}")
        known.add(self)

    @property
    def opaque(self) -> bool:
        """Whether the ledger cannot see what the body sends."""
        return not (self.sends_mail and backend_in_place())

    def identify(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Identity:
        """Return what a call is to the ledger. Raises `KeyFieldError`."""
        return identify(email_type_of(self), args, kwargs)

    def key_for(self, *args: object, **kwargs: object) -> str:
        """Return the idempotency key of a call with these arguments. Raises `KeyFieldError`."""
        return self.identify(args, kwargs).key

    def entry_for(self, *args: object, **kwargs: object) -> Entry | None:
        """Return what the ledger knows about a call with these arguments, or None.

        Raises `KeyFieldError`, `LedgerUnavailable`.
        """
        stored = get_ledger().store.get(self.key_for(*args, **kwargs))
        return stored.entry if stored else None


known: WeakSet[Declared] = WeakSet()
"""Every function that was declared, for the system checks."""


class DirectCall(Call):
    """A call by nobody's queue: it claims under an id of its own, and its errors are its caller's."""

    local = True

    task: Declared

    def __init__(
        self,
        task: Declared,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        job_id: str = "",
        eager: bool = False,
    ) -> None:
        self.task = task
        self.opaque = task.opaque
        self.eager = eager
        note = JobNote.of(task.identify(args, kwargs), job_id or f"direct-{uuid4()}")
        self.claimant = note.claimant(email_type_of(task), "", args, kwargs)

    def ending(self, error: Exception) -> Ending:
        """Nobody calls again."""
        return Ending(AfterBody.GIVES_UP, error)

    def note(self, outcome: Mapping[str, object]) -> None:
        """There is no job to keep it with."""


_Perform = Callable[[Declared, tuple[object, ...], dict[str, object], Body], object]
"""An adapter's part: ``perform(declared, args, kwargs, body)`` returns what the queue is to be given."""


class IdempotentFunction(Protocol[_P, _R_co]):
    """A function as its decorator returns it: called as before, and asked about the email of a call."""

    declared: Declared

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """Run the body once per key; a duplicate returns the first run's result."""

    def key_for(self, *args: _P.args, **kwargs: _P.kwargs) -> str:
        """Return the idempotency key of a call with these arguments. Raises `KeyFieldError`."""

    def entry_for(self, *args: _P.args, **kwargs: _P.kwargs) -> Entry | None:
        """Return what the ledger knows about a call with these arguments, or None."""


class Decorator(Protocol):
    """Makes a function idempotent. A coroutine function becomes a plain one, which every worker can run."""

    @overload
    def __call__(self, function: Callable[_P, Coroutine[Any, Any, _R]]) -> IdempotentFunction[_P, _R]: ...

    @overload
    def __call__(self, function: Callable[_P, _R]) -> IdempotentFunction[_P, _R]: ...


def declare(
    sends_mail: bool, perform: _Perform, options: Mapping[str, object], kind: type[Declared] = Declared
) -> Decorator:
    """Return a decorator that makes a function idempotent; ``perform`` is how its queue has it done.

    The ledger's writes are synchronous, so a coroutine function becomes a plain one.
    """

    def decorator(function: Callable[..., object]) -> Callable[..., object]:
        declared = kind(function, sends_mail, options)
        body = async_to_sync(function) if iscoroutinefunction(function) else function

        @wraps(function)
        def wrapper(*args: object, **kwargs: object) -> object:
            return perform(declared, args, kwargs, lambda: body(*args, **kwargs))

        vars(wrapper).update(declared=declared, key_for=declared.key_for, entry_for=declared.entry_for)
        declared.sender = wrapper
        return wrapper

    return cast(Decorator, decorator)


def claim_and_run(call: Call, body: Body) -> object:
    """Claim the key and run ``body`` under it; the one entry point of queue adapters.

    Raises what `claim` and `run_body` raise.
    """
    return run_body(call, claim(call), body)


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.7)
    return f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(OPTIONS)}."
