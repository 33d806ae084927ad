"""django-anymail: hand-overs to a provider's API in steps, provider keys, and the events of webhooks.

Add ``"celery_idempotent.contrib.anymail"`` to ``INSTALLED_APPS``, beside ``"celery_idempotent"`` and
``"anymail"``.
"""

__all__: list[str] = []
