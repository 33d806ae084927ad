"""PostgreSQL keeps some room in each page of the ledger, so that counting a duplicate touches that page alone.

A row that finds room in its own page needs no new entry in any index (PostgreSQL manual, "Heap-Only Tuples").
"""

from typing import Any

from django.db import migrations

PERCENT = 80


def leave_room(apps: Any, editor: Any) -> None:
    _set(apps, editor, f"SET (fillfactor = {PERCENT})")


def take_back(apps: Any, editor: Any) -> None:
    _set(apps, editor, "RESET (fillfactor)")


def _set(apps: Any, editor: Any, what: str) -> None:
    if editor.connection.vendor == "postgresql":
        table = apps.get_model("celery_idempotent", "LogicalEmail")._meta.db_table
        editor.execute(f"ALTER TABLE {editor.quote_name(table)} {what}")


class Migration(migrations.Migration):
    dependencies = [("celery_idempotent", "0001_initial")]

    operations = [
        # So that a router is asked about the table, which a database with an outbox alone does not have.
        migrations.RunPython(leave_room, take_back, elidable=True, hints={"model_name": "logicalemail"})
    ]
