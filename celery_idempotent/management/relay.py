"""``manage.py idempotency relay``: publish the messages of the outbox, once or until it is told to stop."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event, current_thread, main_thread
from typing import TYPE_CHECKING, TypedDict

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError

from ..operations.relay import BATCH, Relay
from ..outbox.publish import BrokerDown
from ..outbox.rows import CHUNK

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_HELP = "Publish what waits in the outbox, and remove what has come to its end."


class _Options(TypedDict):
    """The parsed command line."""

    continuous: bool
    interval: float
    batch: int


def add_parser(commands: _SubParsersAction[CommandParser], command: BaseCommand) -> None:
    """Add the subcommand to ``commands``, for ``command`` to write its output."""
    parser = commands.add_parser("relay", help=_HELP, description=_HELP)
    parser.set_defaults(run=partial(_handle, command))
    parser.add_argument("--continuous", action="store_true", help="go on until SIGTERM or SIGINT")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between passes (%(default)s)")
    parser.add_argument("--batch", type=int, default=BATCH, help="messages taken at once, to 500 (%(default)s)")


def _handle(command: BaseCommand, options: _Options) -> None:
    """Make one pass, or go on until told to stop. Raises `CommandError`."""
    interval, batch = options["interval"], options["batch"]
    if not 0 < interval < math.inf or not 1 <= batch <= CHUNK:
        raise CommandError(f"--interval has to be positive, and --batch from 1 to {CHUNK}")
    with _until_told() as stop:
        relay = Relay(batch=batch, stop=stop)
        relay.app.loader.import_default_modules()  # as a worker does, so that every task is known
        if options["continuous"]:
            relay.run(interval)
            command.stdout.write("relay: stopped")
            return
        try:
            command.stdout.write(str(relay.once()))
        except (BrokerDown, DatabaseError) as error:
            raise CommandError(f"{error}. What waits is kept") from error


@contextmanager
def _until_told() -> Iterator[Event]:
    """Yield an event that SIGTERM and SIGINT set. The relay finishes the message in hand, and ends."""
    stop = Event()
    if current_thread() is not main_thread():  # as in a test; signals are the main thread's
        yield stop
        return
    known = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in known:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)
