"""The memory store."""

import pytest

from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import StoreConformance


class TestMemoryStore(StoreConformance):
    """Conforms."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()
