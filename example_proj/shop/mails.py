"""What the shop writes to its customers. The tasks decide when."""

from django.core.mail import EmailMessage


def send(tag: str, subject: str, text: str, to: str) -> None:
    """Send one mail; ``tag`` names the logical email in the subject, so that a person can count copies."""
    EmailMessage(f"[{tag}] {subject}", text, to=[to]).send()


def password_reset(token: str, to: str) -> None:
    """Once per token."""
    send(f"reset {token}", "Reset your password", f"https://shop.example.com/reset/{token}", to)


def onboarding(user_id: int, step: int, to: str) -> None:
    """Once per user and step."""
    send(f"onboarding {user_id}.{step}", f"Getting started, part {step}", "There is more to see.", to)


def order_confirmation(order_id: int, to: str) -> None:
    """Once per order."""
    send(f"order {order_id}", "Thank you for your order", f"Order {order_id} is on its way.", to)
