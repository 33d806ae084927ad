"""django-anymail: hand-overs told apart step by step, provider keys, and what webhooks tell later.

Add ``"celery_idempotent.contrib.anymail"`` to ``INSTALLED_APPS``, beside ``"celery_idempotent"`` and
``"anymail"``.
"""

__all__: list[str] = []
