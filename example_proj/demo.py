"""A storm of duplicate events against real workers, with the ledger and without it.

``python example_proj/demo.py`` needs no server and ends by itself within two minutes. Exit status 0 means that
no mail went out twice and none was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

from storm.crew import HERE, WORKERS, NotReady
from storm.figures import Figures
from storm.plan import DOOMED, KILLS, OUTAGE, Plan, make_plan
from storm.publishers import PUBLISHERS
from storm.storm import Storm

ROOT = HERE.parent
BUDGET = 115.0
LEDGER_SHARE = 80.0
LOGICAL, EVENTS, SEED = 200, 600, 2024
INTRODUCTION = f"""\
{{mails}} order confirmations, asked for by {{events}} events from {PUBLISHERS} publishers that race.
Three in ten first attempts fail, one in ten after the mail has gone out. The mail server refuses one mail in
twelve for now. {WORKERS} workers; {KILLS} of their processes are killed in the middle of a task.

After {OUTAGE:.0f} seconds the broker dies. It is a folder, so there is no process to kill. What kill -9 does to
a broker that keeps nothing on disk is done to the folder: every message that waits in it is deleted. A whole
worker is killed with -9 as well, and what it had in hand is gone too. {DOOMED} mails have all their events just
then. The outbox has those messages still, and a relay publishes them again.

First with ledger and outbox, then the same storm on a plain task.
"""
SLOW = """\
This machine is slow or busy. Try again when it is idle, or with a smaller storm:
  example_proj/demo.py --mails 50 --events 150"""
ROWS = {
    "logical": "logical emails",
    "events": "events",
    "sent": "sent",
    "duplicates": "duplicates delivered",
    "suppressed": "duplicates suppressed",
    "wiped": "messages the broker lost",
    "republished": "published again",
    "unanswered": "events unanswered",
    "lost": "mails lost",
    "in_doubt": "in doubt",
    "seconds": "seconds",
}


def main() -> int:
    """Run both storms, print the table and return the exit status."""
    began = time.monotonic()
    options = arguments()
    folder = options.build / "demo"
    prepare(folder)
    plan = make_plan(options.mails, options.events, SEED)
    introduce(plan)
    storm = Storm("ledger", "shop.tasks.order_confirmation", plan, folder)
    try:
        ledger = storm.run(LEDGER_SHARE)
        rest = BUDGET - (time.monotonic() - began)
        plain = Storm("plain", "shop.plain_confirmation", plan, folder).run(rest)
    except NotReady as late:
        print(f"\n{late}.\n{SLOW}")
        return 1
    # Doubt is only allowed where a process was killed in the hand-over.
    killed = KILLS + 2  # the worker that goes with the broker has two
    kept = ledger.duplicates == ledger.lost == ledger.unanswered == 0 and ledger.in_doubt <= killed
    report(ledger, plain, kept, storm.in_time, options.build)
    return 0 if kept else 1


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mails", type=int, default=LOGICAL, help="logical emails (%(default)s)")
    parser.add_argument("--events", type=int, default=EVENTS, help="events that ask for them (%(default)s)")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="where demo/ and demo.json go")
    options = parser.parse_args()
    if not 1 <= options.mails <= options.events:
        parser.error("there have to be at least as many events as mails, and at least one mail")
    return options


def prepare(folder: Path) -> None:
    """Start from an empty folder and empty databases."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("SHOP_DATABASE_URL", "SHOP_BROKER_URL", "SHOP_RESULT_BACKEND"):
        os.environ.pop(name, None)
    os.environ["SHOP_REDELIVER_AFTER"] = "8"  # the demo is in a hurry
    os.environ |= {"DJANGO_SETTINGS_MODULE": "shop.settings", "SHOP_DIRECTORY": str(folder), "SHOP_DEBUG": "0"}
    import django
    from django.core.management import call_command

    django.setup()
    for database in ("default", "ledger"):
        call_command("migrate", database=database, verbosity=0)
    from shop.celery import app

    app.loader.import_default_modules()


def introduce(plan: Plan) -> None:
    """Say what is going to happen."""
    print(INTRODUCTION.format(mails=len(plan.mails), events=len(plan.events)), flush=True)


def report(ledger: Figures, plain: Figures, kept: bool, in_time: bool, build: Path) -> None:
    """Print the table, say where to look next, and write ``demo.json``."""
    figures = {"ledger": asdict(ledger), "plain": asdict(plain)}
    (build / "demo.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"\n{'':24}{'ledger':>10}{'plain':>10}")
    for key, title in ROWS.items():
        print(f"{title:24}{figures['ledger'][key]:>10}{figures['plain'][key]:>10}")
    if kept:
        print("\nThe promise held: no mail went out twice, and none was lost, though the broker lost messages.")
    elif not in_time and ledger.duplicates == 0:
        print(f"\nThe storm had not ended when the time was up, so what is missing is not lost.\n{SLOW}")
    else:
        print("\nThe promise did NOT hold. Please report it, with build/demo.")
    if ledger.in_doubt:
        print(
            f"{ledger.in_doubt} in doubt: a process was killed during the hand-over, and nobody can know "
            "whether the mail was taken.\nThe ledger holds such a mail and says so, and never sends it twice."
        )
    python = Path(sys.executable)
    shown = python.relative_to(ROOT) if python.is_relative_to(ROOT) else "python"
    print(
        "\nWhere to look next\n"
        f"  {shown} example_proj/manage.py createsuperuser\n"
        f"  {shown} example_proj/manage.py runserver     the ledger at http://127.0.0.1:8000/admin/\n"
        "  build/demo/ledger/sink.jsonl                       every mail that the server took\n"
        "  build/demo.json                                    these figures\n"
        "  example_proj/README.md, README.md, docs/           how it works and how to use it"
    )


if __name__ == "__main__":
    sys.exit(main())
