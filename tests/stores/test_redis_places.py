"""Every way to reach a Redis: URLs, sockets, TLS, Sentinel, a cluster; and several projects on one."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis as client
import trustme
from celery import Celery
from redis.cluster import RedisCluster

from celery_idempotent.checks.settings import check_settings
from celery_idempotent.exceptions import LedgerUnavailable
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Duplicate
from celery_idempotent.ledger.status import Status
from celery_idempotent.stores import factory
from celery_idempotent.stores.redis.store import RedisStore
from celery_idempotent.testing import KEY, hold
from tests.stores.emails import CLAIMANT, DAY, MESSAGE_ID, PLACE, POLICY, TARGET, send, synced
from tests.support.servers import Redis, Sentinel, find, free_port
from tests.support.worker import wait_for

pytestmark = pytest.mark.process


def test_projects_on_one_redis_are_kept_apart(redis: Redis, settings: Any) -> None:
    """By Celery's own ``global_keyprefix``, and by NAMESPACE."""
    prefixes = set()
    for prefix, namespace in (("", ""), ("staging_", ""), ("", "shop")):
        options = {"global_keyprefix": prefix} if prefix else {}
        settings.CELERY_IDEMPOTENT = {"LEDGER": "auto", "NAMESPACE": namespace}
        app = Celery("apart", backend=redis.url, set_as_current=False)
        app.conf.result_backend_transport_options = options
        ledger = factory.get_ledger(app)
        prefixes.add(ledger.store.place(KEY))  # type: ignore[attr-defined]
    assert len(prefixes) == 3


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("rediss://host:6379/0", "ssl_cert_reqs"),
        ("redis://host:port/0", "cannot be used"),
        ("redis://me:secret@host/notadb", "cannot be used"),
        ("sentinel://host:26379/0", "master_name"),
    ],
)
def test_a_url_that_cannot_be_used(settings: Any, url: str, text: str) -> None:
    """Known to the system check, without asking a server, and without showing a password."""
    settings.CELERY_IDEMPOTENT = {"LEDGER": url}
    factory.forget_ledgers()
    (found,) = check_settings(None)
    assert found.id == "celery_idempotent.E002"
    assert text in found.msg
    assert "secret" not in found.msg


def ledger_at(url: str, settings: Any, **config: Any) -> Ledger:
    """Return the ledger of a project whose results are at ``url``."""
    settings.CELERY_IDEMPOTENT = {"LEDGER": "auto"}
    app = Celery("auto", broker="memory://", backend=url, set_as_current=False)
    app.conf.update(config)
    factory.forget_ledgers()
    ledger = factory.get_ledger(app)
    assert isinstance(ledger.store, RedisStore)
    return ledger


def test_a_url_with_a_database_number(redis: Redis, settings: Any) -> None:
    """The usual form, under ``auto`` and named outright."""
    url = redis.url.removesuffix("/0") + "/3"
    with client.Redis.from_url(url) as connected:
        connected.flushdb()
        send(ledger_at(url, settings))
        assert connected.exists(PLACE(KEY))
    settings.CELERY_IDEMPOTENT = {"LEDGER": url}
    assert isinstance(factory.get_ledger().claim(replace(CLAIMANT, task_id="x"), POLICY), Duplicate)


@pytest.mark.process
def test_a_unix_socket(tmp_path: Path, settings: Any) -> None:
    """``redis+socket://``, as Celery has it."""
    socket = f"/tmp/idem-{free_port()}.sock"
    with Redis("--unixsocket", socket) as server:
        send(ledger_at(f"redis+socket://{socket}?virtual_host=2", settings))
        with client.Redis(port=server.port, db=2) as connected:
            assert connected.exists(PLACE(KEY))


@pytest.mark.process
def test_tls(tmp_path: Path, settings: Any) -> None:
    """``rediss://`` with the authority in the URL; a certificate of another authority is refused."""
    authority, stranger = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    for name, ca in (("ca", authority), ("stranger", stranger)):
        ca.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    port, pem = free_port(), str(tmp_path / "server.pem")
    tls = ("--tls-port", str(port), "--tls-cert-file", pem, "--tls-key-file", pem, "--tls-auth-clients", "no")
    with Redis(*tls, "--tls-ca-cert-file", str(tmp_path / "ca.pem")):
        url = f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={tmp_path}"
        send(ledger_at(f"{url}/ca.pem", settings))
        with pytest.raises(LedgerUnavailable, match="does not answer"):
            ledger_at(f"{url}/stranger.pem", settings, redis_retry_on_timeout=False).store.get(KEY)


@pytest.mark.process
def test_sentinel_finds_the_primary_after_a_failover(settings: Any) -> None:
    """A claim before, and its hand-over after: what the replica has is not sent again."""
    with ExitStack() as stack:
        primary = stack.enter_context(Redis())
        replica = stack.enter_context(Redis("--replicaof", "127.0.0.1", str(primary.port)))
        sentinel = stack.enter_context(Sentinel(primary))
        synced(replica)
        with client.Redis.from_url(sentinel.url.replace("sentinel", "redis")) as watched:
            wait_for(lambda: watched.sentinel_masters()["shop"]["num-slaves"] == 1)
            ledger = ledger_at(sentinel.url, settings, result_backend_transport_options={"master_name": "shop"})
            outcome = ledger.claim(CLAIMANT, POLICY)
            send(ledger, replace(CLAIMANT, key="sent"))
            with client.Redis.from_url(replica.url) as second:
                wait_for(lambda: b'"s":"sent"' in (second.get(PLACE("sent")) or b""))
            primary.stop()
            wait_for(lambda: watched.sentinel_masters()["shop"]["port"] == replica.port)
        entry = wait_for(lambda: patiently(ledger, outcome.entry))
        assert entry.status is Status.SENDING
        assert isinstance(ledger.claim(replace(CLAIMANT, key="sent", task_id="other"), POLICY), Duplicate)


def patiently(ledger: Ledger, entry: Any) -> Any:
    """Write ahead, or None while the failover is under way."""
    try:
        return hold(ledger, entry, CLAIMANT, POLICY).begin([TARGET], MESSAGE_ID)
    except LedgerUnavailable:
        return None


@pytest.mark.process
def test_cluster(settings: Any) -> None:
    """Three nodes: every shard is in one slot, and due, purge and problems look at all of them."""
    with ExitStack() as stack:
        # Or it takes its own port plus 10,000, which an outgoing connection may have.
        own = ("--cluster-enabled", "yes", "--cluster-port")
        nodes = [stack.enter_context(Redis(*own, str(free_port()))) for _ in range(3)]
        places = [f"127.0.0.1:{node.port}" for node in nodes]
        command = [find("redis-cli"), "--cluster", "create", *places, "--cluster-yes"]
        subprocess.run(command, capture_output=True, check=True, timeout=60)
        settings.CELERY_IDEMPOTENT = {"LEDGER": f"redis+cluster://{places[0]}", "RETENTION": DAY}
        wait_for(lambda: in_order(places[0]))
        ledger = factory.get_ledger()
        for n in range(30):
            send(ledger, replace(CLAIMANT, key=f"key-{n}"))
        assert isinstance(ledger.claim(replace(CLAIMANT, key="key-7", task_id="other"), POLICY), Duplicate)
        short = replace(POLICY, lease=0.0)
        for n in range(5):
            ledger.claim(replace(CLAIMANT, key=f"late-{n}"), short)
        assert sorted(entry.key for entry in ledger.store.due()) == [f"late-{n}" for n in range(5)]
        assert list(ledger.store.problems()) == []
        assert ledger.store.purge(older_than=-1, limit=10) == 10
        assert ledger.store.purge(older_than=-1) == 20


def in_order(place: str) -> bool:
    """Tell whether the cluster at ``place`` takes writes."""
    with RedisCluster.from_url(f"redis://{place}") as connected:
        return bool(connected.set("probe", "1"))
