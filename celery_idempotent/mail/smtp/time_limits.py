"""Time limits of an SMTP backend: for each reply, and for all that comes before a connection is ready."""

from __future__ import annotations

import smtplib
from functools import lru_cache
from math import inf

from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP

from .reply_reader import add_reply_reader


class _OpensInTime(DjangoSMTP):
    """Its connections read with `ReplyReader` from the first reply on."""

    opens_within = inf
    """Seconds for all that comes before a connection is ready."""

    @property
    def connection_class(self) -> type[smtplib.SMTP]:
        return add_reply_reader(super().connection_class, self.opens_within)  # type: ignore[arg-type]


@lru_cache(maxsize=16)
def add_time_limits(kind: type[DjangoSMTP]) -> type[DjangoSMTP]:
    """Return ``kind`` of backend, its connections opened and read within a time that `limit_timeouts` sets."""
    return type(kind.__name__, (_OpensInTime, kind), {"__qualname__": kind.__qualname__})


def limit_timeouts(backend: DjangoSMTP, timeout: float) -> float:
    """Give ``backend`` a time limit for each reply, of at most ``timeout`` seconds, and return it.

    A connection that it opens has ``timeout`` for all that comes before it is ready.
    """
    if isinstance(backend, _OpensInTime):
        backend.opens_within = timeout
    own = backend.timeout
    backend.timeout = timeout if own is None else min(own, timeout)
    return float(backend.timeout)
