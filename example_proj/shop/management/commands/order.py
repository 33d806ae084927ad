"""``manage.py order 7 ann@example.com --times 3``: one order, announced several times over."""

from typing import Any

from celery.exceptions import TimeoutError as NoAnswer
from django.core.management.base import BaseCommand, CommandError, CommandParser

from shop.tasks import order_confirmation


class Command(BaseCommand):
    """Publishes the same order confirmation again and again."""

    help = "Ask for an order's confirmation several times, and show the answer to each."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the order, the customer, and how often and how long to ask."""
        parser.add_argument("order_id", type=int)
        parser.add_argument("to", help="the customer's address")
        parser.add_argument("--times", type=int, default=3, help="how often to ask for it (%(default)s)")
        parser.add_argument("--timeout", type=float, default=30, help="seconds to wait (%(default)s)")

    def handle(self, *, order_id: int, to: str, times: int, timeout: float, **options: Any) -> None:
        """Publish, then wait for the results in the same order."""
        if times < 1:
            raise CommandError("--times has to be at least 1")
        results = [order_confirmation.delay(order_id, to) for _ in range(times)]
        for result in results:
            self.stdout.write(f"published {result.id}")
        for result in results:
            try:
                value = result.get(timeout=timeout)
            except NoAnswer:
                raise CommandError(f"no answer within {timeout:g} s. Does a worker run?") from None
            self.stdout.write(f"{result.state.lower():9} {result.id} {value}")
        self.stdout.write(f"Asked {times} times. How many mails to {to} did the mail server take?")
