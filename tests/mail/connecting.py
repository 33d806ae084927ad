"""A task that sends one message, and a rush of them that leaves several connections open."""

from __future__ import annotations

import threading

from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask
from tests.support.mailserver import ScriptedSMTP

app = Celery("connections", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="connected", send_timeout=10.0, max_retries=0)
def send(n: int) -> str:
    EmailMessage("Hi", "text", to=["ann@example.com"]).send()
    return "sent"


def rush(server: ScriptedSMTP, orders: range) -> None:
    """Send all of ``orders`` at once, each over a connection of its own, and leave these open."""
    before = server.count("dot")
    server.hold("dot")
    threads = [threading.Thread(target=send.apply, args=((n,),)) for n in orders]
    for thread in threads:
        thread.start()
    server.reached("dot", before + len(orders))
    server.release("dot")
    for thread in threads:
        thread.join(20)
    assert server.connections == len(orders)
