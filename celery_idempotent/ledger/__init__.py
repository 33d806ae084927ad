"""The decisions of the ledger, in pure Python: no Django, no Celery, no clock of its own."""
