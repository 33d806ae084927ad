"""The processes that publish the events of a plan, in a race."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .plan import Event, Plan

PUBLISHERS = 3
HEAD_START = 2.0
"""Seconds that the publishers have to come up."""


@contextmanager
def publishers(task_name: str, plan: Plan, record: Path) -> Iterator[list[Any]]:
    """Start them. The first event is `HEAD_START` away; what they have published is in ``record``."""
    spawn = multiprocessing.get_context("spawn")
    start = time.time() + HEAD_START
    shares = [plan.events[n::PUBLISHERS] for n in range(PUBLISHERS)]
    processes = [spawn.Process(target=publish, args=(task_name, share, start, record)) for share in shares]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def publish(task_name: str, events: list[Event], start: float, record: Path) -> None:
    """Publish ``events`` at their times and note each task's id. Runs in a process of its own."""
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    django.setup()
    from shop.celery import app
    from shop.mishaps import HEADER

    app.loader.import_default_modules()
    task = app.tasks[task_name]
    enqueue = getattr(task, "enqueue_with", None)
    for event in sorted(events, key=lambda event: event.at):
        time.sleep(max(0.0, start + event.at - time.time()))
        headers = {HEADER: event.mishap} if event.mishap else {}
        result = (enqueue or task.apply_async)(event.mail, headers=headers)
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps([result.id, event.mail]) + "\n")
