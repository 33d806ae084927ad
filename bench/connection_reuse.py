"""Measure a connection a message against one kept open, side by side in one run, against a local aiosmtpd.

    python -m bench.connection_reuse --messages 200 --rounds 5 --tls

Figures are for comparing the two on one machine; nothing is asserted. The server is on the loopback device,
where a round trip costs next to nothing: over a network each one that is saved counts for more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import ssl
import statistics
import tempfile
import time
from typing import Any

from tests.support.servers import free_port


class Taker:
    """Takes everything."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        return "250 taken"


def serve(port: int, certificate: str | None, ready: Any) -> None:
    """Run the server until the process is ended."""
    from aiosmtpd.controller import Controller

    options: dict[str, Any] = {}
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        options = {"tls_context": context, "require_starttls": True}
    Controller(Taker(), hostname="127.0.0.1", port=port, **options).start()
    ready.set()
    time.sleep(3600)


def certified() -> str:
    """Make a certificate for localhost that this process trusts, and return its file."""
    import trustme

    directory = tempfile.mkdtemp()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(f"{directory}/ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(f"{directory}/chain.pem")
    os.environ["SSL_CERT_FILE"] = f"{directory}/ca.pem"
    return f"{directory}/chain.pem"


def configured(port: int, tls: bool) -> Any:
    """Set Django up, and return a task that sends one message."""
    from django.conf import settings

    mail = {"EMAIL_BACKEND": "celery_idempotent.mail.EmailBackend", "EMAIL_HOST": "localhost"}
    settings.configure(
        **mail,
        EMAIL_PORT=port,
        EMAIL_USE_TLS=tls,
        EMAIL_TIMEOUT=20,
        SECRET_KEY="bench",
        INSTALLED_APPS=["celery_idempotent"],
        CELERY_IDEMPOTENT={"LEDGER": "memory://", "MESSAGE_ID_DOMAIN": "shop.example.com"},
    )
    import django

    django.setup()
    from celery import Celery
    from django.core.mail import EmailMessage

    from celery_idempotent import IdempotentEmailTask

    app = Celery("bench", broker="memory://", backend="cache+memory://")

    @app.task(base=IdempotentEmailTask, key_fields=("n",))
    def send(n: int) -> None:
        EmailMessage("Your order", "text\n" * 40, "shop@example.com", ["ann@example.com"]).send()

    return send


def measure(send: Any, messages: int, first: int, idle: float) -> float:
    """Return the milliseconds that a message takes, ledger and task included."""
    from django.conf import settings

    settings.CELERY_IDEMPOTENT["CONNECTION_IDLE"] = idle
    began = time.perf_counter()
    for n in range(first, first + messages):
        send.apply((n,)).get()
    return (time.perf_counter() - began) / messages * 1000


def main() -> None:
    """Run both ways in turns and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=200, help="in each round, each way")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tls", action="store_true", help="with STARTTLS")
    options = parser.parse_args()
    port, ready = free_port(), multiprocessing.Event()
    certificate = certified() if options.tls else None
    server = multiprocessing.Process(target=serve, args=(port, certificate, ready), daemon=True)
    server.start()
    ready.wait(20)
    send = configured(port, options.tls)
    measure(send, 20, -100, 0)  # warm up
    figures: dict[str, list[float]] = {"a connection a message": [], "one connection kept": []}
    for turn in range(options.rounds):
        for place, (way, idle) in enumerate(zip(figures, (0.0, 30.0), strict=True)):
            first = (turn * 2 + place) * options.messages
            figures[way].append(measure(send, options.messages, first, idle))
    server.terminate()
    print(f"{options.messages} messages x {options.rounds} rounds, {'STARTTLS' if options.tls else 'no TLS'}")
    for way, took in figures.items():
        print(f"{way:>24}: {statistics.median(took):6.2f} ms (median; {min(took):.2f} to {max(took):.2f})")
    each, kept = (statistics.median(took) for took in figures.values())
    print(f"{'ratio':>24}: {each / kept:6.2f}")


if __name__ == "__main__":
    main()
