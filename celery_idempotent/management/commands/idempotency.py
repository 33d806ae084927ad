"""``manage.py idempotency <what>``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from .. import relay

SUBCOMMANDS: dict[str, Any] = {"relay": relay}
"""Modules with ``HELP``, ``add_arguments(parser)`` and ``handle(command, **options)``."""


class Command(BaseCommand):
    """Mounts the subcommands."""

    help = "Look after the ledger and the outbox."

    def add_arguments(self, parser: CommandParser) -> None:
        """Give each subcommand its own arguments."""
        commands = parser.add_subparsers(dest="what", required=True)
        for name, module in SUBCOMMANDS.items():
            module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))

    def handle(self, *, what: str, **options: Any) -> None:
        """Run the one that was asked for."""
        SUBCOMMANDS[what].handle(self, **options)
