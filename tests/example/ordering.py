"""``python -m tests.example.ordering``: ask the example's shop three times for each of its mails."""

from __future__ import annotations

import json

from shop.celery import app

app.loader.import_default_modules()

from shop.tasks import onboarding, order_confirmation, password_reset  # noqa: E402

CALLS = [
    (password_reset, ("token-1", "ann@example.com")),
    (onboarding, (7, "first-steps", "ann@example.com")),
    (onboarding, (7, "second-steps", "ann@example.com")),
    (order_confirmation, (1, "ann@example.com")),
]

if __name__ == "__main__":
    results = [task.delay(*args) for _ in range(3) for task, args in CALLS]
    print(json.dumps([result.get(timeout=60) for result in results]))
