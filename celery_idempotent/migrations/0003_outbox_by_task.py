"""The index by which a relay finds what is due knows the tasks: it passes over those of other apps in there."""

from django.db import migrations, models

MODEL, NAME = "outboxmessage", "celery_idempotent_outbox_due"


class Migration(migrations.Migration):
    dependencies = [("celery_idempotent", "0002_room_for_updates")]

    operations = [
        migrations.RemoveIndex(model_name=MODEL, name=NAME),
        migrations.AddIndex(model_name=MODEL, index=models.Index(fields=["due_at", "task"], name=NAME)),
    ]
