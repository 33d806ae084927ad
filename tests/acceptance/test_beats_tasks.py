"""The tasks for beat in a real worker, by name through a broker, as beat sends them."""

from __future__ import annotations

from tests.support.shop import Shop
from tests.support.worker import wait_for

STORED = "from django.utils import timezone\nfrom celery_idempotent.models import LogicalEmail, OutboxMessage\n"


def test_the_relay_publishes_what_was_lost(shop: Shop) -> None:
    """Published once, says its row, and not in the broker: the worker publishes it again, and sends it."""
    shop.ask(f"""{STORED}
from unittest.mock import patch
with patch("celery_idempotent.outbox.enqueue._publish"):
    task_id = confirm.enqueue(3001).id
OutboxMessage.objects.update(tries=1, published_at=timezone.now(), due_at=timezone.now())
app.send_task("celery_idempotent.relay")
""")
    wait_for(lambda: shop.ask(f"{STORED}answer(not OutboxMessage.objects.exists())"), 60, shop.logs)
    assert shop.copies() == 1
    assert "relay: 1 published, 0 done, 0 waiting" in shop.log()


def test_the_sweep_releases_what_was_left(shop: Shop) -> None:
    """A lease that has passed, of a process that is gone: the key is free again, and who comes next sends."""
    released, status, result = shop.ask("""
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.stores.factory import get_ledger
from tests.support.worker import wait_for
ledger = get_ledger(app)
ledger.claim(Claimant(confirm.key_for(3002), "confirmation", "gone"), Policy(lease=0.001))
wait_for(ledger.store.due)
swept = app.send_task("celery_idempotent.sweep").get(timeout=60)
status = confirm.entry_for(3002).status
answer([swept["released"], status, confirm.delay(3002).get(timeout=60)["order"]])
""")
    assert (released, status, result) == (1, "released", 3002)
    assert shop.copies() == 1


def test_the_purge_removes_what_is_old(shop: Shop) -> None:
    """Longer unchanged than ``RETENTION``, and finished; what is younger stays."""
    removed, old, young = shop.ask(f"""{STORED}
for order in (3003, 3004):
    confirm.delay(order).get(timeout=60)
past = timezone.now() - timedelta(days=91)
LogicalEmail.objects.filter(key=confirm.key_for(3003)).update(updated_at=past)
removed = app.send_task("celery_idempotent.purge").get(timeout=60)
answer([removed, confirm.entry_for(3003) is None, confirm.entry_for(3004).status])
""")
    assert (removed, old, young) == (1, True, "sent")
