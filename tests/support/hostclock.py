"""A host whose clock is wrong, as seen by the package's own modules; the rest of the process keeps its time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, tzinfo
from typing import Any
from unittest.mock import patch

from django.utils import timezone


@contextmanager
def host_clock(now: Callable[[], datetime]) -> Iterator[None]:
    """Have ``now``, aware, in place of the host's clock wherever a module of the package would read that."""
    functions = {time.time: lambda: now().timestamp(), timezone.now: now}
    stand_ins: dict[int, Any] = {id(function): other for function, other in functions.items()}
    stand_ins |= {
        id(datetime): _class(now),
        id(time): _Module(time, time=functions[time.time]),
        id(timezone): _Module(timezone, now=now),
    }
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] != "celery_idempotent":
                continue
            for attribute, value in list(vars(module).items()):
                if (other := stand_ins.get(id(value))) is not None:
                    stack.enter_context(patch.object(module, attribute, other))
        yield


class _Module:
    """``real`` with some names of its own."""

    def __init__(self, real: Any, **names: Any) -> None:
        self._real = real
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _class(clock: Callable[[], datetime]) -> Any:
    """Return what passes for `datetime` and reads ``clock``."""

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, datetime)

    class HostDatetime(datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return clock().astimezone(tz) if tz else clock().astimezone().replace(tzinfo=None)

    return HostDatetime
