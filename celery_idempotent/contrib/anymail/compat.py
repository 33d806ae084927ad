"""Private parts of Anymail, `requests` and botocore that this app reads, each by one function.

`tests/anymail/test_compat.py` has a test for each, which fails where a new version has the part no more.
"""

from __future__ import annotations

from collections.abc import Callable

from anymail.backends.base import AnymailBaseBackend
from urllib3 import PoolManager


def prepare_pool_managers(backend: AnymailBaseBackend, prepare: Callable[[PoolManager], None]) -> None:
    """Call ``prepare`` with each pool manager of urllib3 that the open client of ``backend`` has or makes.

    Of `requests` this reads ``HTTPAdapter.poolmanager`` and replaces ``HTTPAdapter.proxy_manager_for``. Seen in
    requests 2.34. Of boto3 it reads ``client._endpoint.http_session._manager`` and replaces
    ``http_session._pool_classes_by_scheme``, from which botocore makes its managers for proxies. Seen in
    botocore 1.44.
    """
    for adapter in getattr(getattr(backend, "session", None), "adapters", {}).values():
        if hasattr(adapter, "poolmanager") and "proxy_manager_for" not in vars(adapter):
            prepare(adapter.poolmanager)
            adapter.proxy_manager_for = _preparing(adapter.proxy_manager_for, prepare)
    endpoint = getattr(getattr(backend, "client", None), "_endpoint", None)
    http = getattr(endpoint, "http_session", None)
    if http is not None and hasattr(http, "_manager"):
        prepare(http._manager)
        http._pool_classes_by_scheme = http._manager.pool_classes_by_scheme


def _preparing(
    manager_for: Callable[..., PoolManager], prepare: Callable[[PoolManager], None]
) -> Callable[..., PoolManager]:
    def prepared_manager_for(*args: object, **options: object) -> PoolManager:
        manager = manager_for(*args, **options)
        prepare(manager)
        return manager

    return prepared_manager_for


def sends_as_anymail(kind: type[AnymailBaseBackend]) -> bool:
    """Tell whether ``kind`` of backend sends as Anymail's do: it overrides neither step of sending.

    Reads ``AnymailBaseBackend._send``, which some of Anymail's own backends override. Seen in Anymail 15.
    """
    own = kind.send_messages is AnymailBaseBackend.send_messages
    return bool(own and kind._send.__module__.startswith("anymail."))
