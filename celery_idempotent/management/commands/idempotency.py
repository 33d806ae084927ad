"""``manage.py idempotency``: subcommands that show emails, decide about them, and keep the ledger in order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Any, TypedDict

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...exceptions import IdempotencyError, InterventionRefused
from ...ledger.entry import Entry
from ...operations import decisions, search
from ...operations.display import page, plain
from ...operations.doctor import OK, WAITS, WRONG, Finding, examine
from ...operations.erasure import forget
from ...operations.purge import BATCH, purge
from ...operations.sweep import LIMIT, STUCK_AFTER, sweep
from ...operations.tables import table
from ...stores.factory import get_ledger
from ...tasks.registry import import_tasks
from .. import relay, stats
from ..arguments import duration, login, pair, positive

_REFUSED, _LEFT = 1, 3
"""Exit codes: refused or failed; done, and something is left for a person. 2 is argparse's own."""


class _Options(TypedDict, total=False):
    """The parsed command line; each subcommand has some of these options."""

    json: bool
    keys: list[str]
    what: str | None
    type: str | None
    field: list[tuple[str, str]]
    in_doubt: bool
    stuck: bool
    unfinished: bool
    stuck_after: timedelta
    actor: str
    reason: str
    sent: bool
    limit: int
    older_than: timedelta | None
    dry_run: bool
    force: str
    batch: int
    address: str


class Command(BaseCommand):
    """Dispatches to the subcommands, which are its methods."""

    requires_system_checks = []  # the doctor reports them, and a decision need not wait for them
    help = "Look into the ledger of sent emails, decide what is in doubt, and keep the ledger in order."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the subcommands."""
        commands = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")

        def add(name: str, text: str) -> CommandParser:
            command = commands.add_parser(name, help=text, description=text)
            command.set_defaults(run=getattr(self, name))
            # argparse takes -5 for a value and -5d for an option; what is wrong with -5d, `duration` says.
            command._negative_number_matcher = re.compile(r"-\d")
            command.add_argument("--json", action="store_true", help="for machines")
            return command

        counts = add("stats", "How many emails there are in which state.")
        which = counts.add_mutually_exclusive_group()
        for name, text in stats.HELP.items():
            which.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=text)
        self._stuck_after(counts)
        show = add("show", "Everything about one email: attempts, recipients, decisions, and what to do.")
        show.add_argument("what", nargs="?", help="a key, how it begins, a task id or a Message-ID")
        show.add_argument("--type", help="an email type, with --field for each of its key fields")
        show.add_argument("--field", type=pair, action="append", metavar="NAME=VALUE", default=[])
        self._decisions(add)
        one = add("sweep", "Release expired claims, find doubts, ask verifiers, report stuck emails.")
        one.add_argument("--limit", type=positive, default=LIMIT, help="entries a pass looks at (%(default)s)")
        self._stuck_after(one)
        relay.add_parser(commands, self)
        old = add("purge", "Remove finished emails that are old enough.")
        old.add_argument("--older-than", type=duration, help="such as 90d; by default RETENTION")
        old.add_argument("--dry-run", action="store_true", help="count them and remove nothing")
        old.add_argument("--batch", type=positive, default=BATCH, help="entries a transaction (%(default)s)")
        old.add_argument("--force", metavar="REASON", default="", help="why an age under RETENTION is no risk")
        gone = add("forget", "Erase a recipient's digest and mask; the keys stay closed.")
        gone.add_argument("address")
        self._who_and_why(gone, default="erasure asked for")
        self._stuck_after(
            add("doctor", "Examine settings, tables, connection and clock, and count what waits.")
        )

    def _decisions(self, add: Callable[[str, str], CommandParser]) -> None:
        resolve = add("resolve", "Settle a doubt: say whether the email went out.")
        verdict = resolve.add_mutually_exclusive_group(required=True)
        verdict.add_argument("--sent", action="store_true", help="it went out: calls are duplicates now")
        verdict.add_argument("--not-sent", action="store_true", help="it did not: the next call offers it")
        commands = [
            resolve,
            add("reopen", "Allow one more sending of what is finished, by the next call of the task."),
            add("release", "Free a key that blocks: the next call gets it."),
            add("cancel", "Withdraw an unsent email: calls succeed without it (until a window has passed)."),
        ]
        for command in commands:
            command.add_argument("keys", nargs="+", metavar="KEY", help="or how it begins, or a task id")
            self._who_and_why(command)

    def _who_and_why(self, command: CommandParser, default: str = "") -> None:
        said = f" ({default})" if default else ""
        text = f"kept with the email{said}"
        command.add_argument("--reason", required=not default, default=default, help=text)
        command.add_argument("--actor", default=login(), help="who decides (%(default)s)")

    def _stuck_after(self, command: CommandParser) -> None:
        default = timedelta(seconds=STUCK_AFTER)
        command.add_argument("--stuck-after", type=duration, default=default, help="such as 2h (1h)")

    def handle(self, *args: object, **options: Any) -> None:
        """Run the subcommand. A failure is one sentence on stderr, with exit code 1."""
        error = import_tasks()  # verifiers and windows are the tasks' own
        if error is not None and options["subcommand"] != "doctor":
            raise CommandError(
                f"the tasks cannot be imported: {type(error).__name__}: {error}", returncode=_REFUSED
            ) from error
        try:
            options["run"](options)
        except (IdempotencyError, ImproperlyConfigured) as error:
            raise CommandError(str(error), returncode=_REFUSED) from None

    def _say(self, options: _Options, data: object, text: str) -> None:
        self.stdout.write(
            json.dumps(data, indent=2, ensure_ascii=False, default=str) if options["json"] else text
        )

    def stats(self, options: _Options) -> None:
        """Count by email type and status, or list what waits."""
        if not search.has_tables():
            raise CommandError("this ledger keeps no tables to count in; show KEY works", returncode=_REFUSED)
        wanted = next((name for name in stats.HELP if options[name]), None)  # type: ignore[literal-required]
        self._say(options, *stats.summary(options["stuck_after"].total_seconds(), wanted))

    def show(self, options: _Options) -> None:
        """Show one email, or list those that fit."""
        if bool(options["what"]) == bool(options["type"]):
            raise CommandError("give a key, a task id or a Message-ID; or --type with --field", returncode=2)
        if options["type"]:
            found = decisions.find_by_fields(options["type"], dict(options["field"]))
        else:
            found = decisions.find(options["what"] or "", stats.SHOWN)
        if not found:
            raise CommandError(
                "nothing is known by that: it was never asked for, or is forgotten", returncode=1
            )
        attempts = {entry.key: search.attempts_of(entry.key) or entry.history for entry in found}
        if len(found) == 1:
            (entry,) = found
            text = page(entry, attempts[entry.key], get_ledger().store.now())
        else:
            lines = ((e.key, e.email_type, e.label, e.status, e.created_at) for e in found)
            text = table(("key", "email type", "label", "status", "first seen"), lines)
        self._say(options, [plain(entry, attempts[entry.key]) for entry in found], text)

    def doctor(self, options: _Options) -> None:
        """Examine, and end with 1 if something is wrong, with 3 if something only waits for somebody."""
        found = list(examine(options["stuck_after"].total_seconds()))
        paint = {OK: self.style.SUCCESS, WAITS: self.style.WARNING, WRONG: self.style.ERROR}

        def line(one: Finding) -> str:
            return f"{paint[one.state](one.state.ljust(6))} {one.about}: {one.text}"

        self._say(options, [asdict(one) for one in found], "\n".join(line(one) for one in found))
        states = {one.state for one in found}
        if WRONG in states:
            raise CommandError("something has to be mended", returncode=_REFUSED)
        if WAITS in states:
            raise CommandError("it works; something waits for somebody", returncode=_LEFT)

    def _decide(self, options: _Options, decision: str) -> None:
        entries = [_find_one(key) for key in options["keys"]]  # all of them, before the first is changed
        done = []
        for entry in entries:
            changed = decisions.decide(decision, entry.key, options["actor"], options["reason"], entry.version)
            done.append({"key": changed.key, "status": changed.status.value, "generation": changed.generation})
            if not options["json"]:
                last = changed.audit[-1]
                self.stdout.write(f"{changed.email_type} {changed.label}: {last.action}, now {changed.status}")
        if options["json"]:
            self._say(options, done, "")

    def resolve(self, options: _Options) -> None:
        """Settle doubts."""
        self._decide(options, "resolve_sent" if options["sent"] else "resolve_not_sent")

    def reopen(self, options: _Options) -> None:
        """Open new generations."""
        self._decide(options, "reopen")

    def release(self, options: _Options) -> None:
        """Free claims."""
        self._decide(options, "release")

    def cancel(self, options: _Options) -> None:
        """Withdraw."""
        self._decide(options, "cancel")

    def sweep(self, options: _Options) -> None:
        """Make one pass."""
        done = sweep(options["limit"], options["stuck_after"].total_seconds())
        lines = [
            f"{done.released} claims released, {done.in_doubt} hand-overs found in doubt",
            f"verifiers: {done.sent} sent, {done.not_sent} not sent, {done.unknown} unknown",
            f"{done.mirrored} entries written to the mirror",
            f"{len(done.stuck)} stuck",
        ]
        self._say(options, asdict(done), "\n".join(lines))

    def purge(self, options: _Options) -> None:
        """Remove what is old."""
        count = purge(options["older_than"], options["dry_run"], options["batch"], force=options["force"])
        key = "would_remove" if options["dry_run"] else "removed"
        self._say(options, {key: count}, f"{count} {'would be ' if options['dry_run'] else ''}removed")

    def forget(self, options: _Options) -> None:
        """Erase a recipient."""
        found = forget(options["address"], options["actor"], options["reason"])
        text = f"erased from {len(found.erased)} emails"
        if found.cut_off:
            text += f"; {len(found.cut_off)} had been cut off, and nobody sends the rest of them any more:"
            text += "".join(f"\n  {key}" for key in sorted(found.cut_off))
        data = {"erased": sorted(found.erased), "left": found.left, "cut_off": sorted(found.cut_off)}
        self._say(options, data, text)
        if found.left:
            why = "\n".join(f"  {text}" for text in found.left.values())
            raise CommandError(
                f"{len(found.left)} are not finished, so run this again later:\n{why}", returncode=_LEFT
            )


def _find_one(text: str) -> Entry:
    """Return the one entry that ``text`` names. Raises `InterventionRefused` for none or several."""
    found = decisions.find(text, 10)
    if not found:
        where = "" if search.has_tables() else ". This ledger keeps no tables, so only a whole key finds it"
        raise InterventionRefused(f"nothing is known by {text!r}: it is no key, task id or Message-ID{where}")
    if len(found) > 1:
        keys = "\n".join(f"  {entry.key}  {entry.label}" for entry in found)
        raise InterventionRefused(f"{text!r} names several; give a whole key:\n{keys}")
    return found[0]
