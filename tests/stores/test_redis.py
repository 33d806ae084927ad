"""The Redis store on real servers: conformance, round trips, faults, and every way to reach a Redis."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis as client
import trustme
from celery import Celery
from redis.cluster import RedisCluster

from celery_idempotent import checks, wiring
from celery_idempotent.core.entry import After, Recipient
from celery_idempotent.core.errors import EntryUnreadable, LedgerUnavailable
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.outcomes import Acquired, Asker, Busy, Duplicate, Policy, Reply
from celery_idempotent.core.status import DeliveryStatus, Status
from celery_idempotent.stores.redis import RedisStore
from celery_idempotent.testing import KEY, StoreConformance, make_entry
from tests.support.servers import Redis, Sentinel, find, free_port
from tests.support.worker import wait_for

DAY = timedelta(days=1)
PLACE = RedisStore(lambda: None, lambda: DAY).place
ASKER = Asker(KEY, "order-confirmation", "b7cf6d3e-9d0e-4c64-8ac5-59ee02b3d1f9", "celery@shop-1", "order_id=7")
POLICY = Policy()
TARGET = ("0", Recipient("d1" * 32, "a***@example.com"))
MESSAGE_ID = f"<{'ab' * 20}@shop.example>"
ACCEPTED = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250, "2.0.0 Ok: queued")}


@pytest.fixture
def connected(redis: Redis) -> Iterator[Any]:
    """A client of an empty Redis."""
    with client.Redis.from_url(redis.url) as connected:
        connected.flushall()
        connected.config_set("maxmemory", 0)
        yield connected


@pytest.fixture
def store(connected: Any) -> RedisStore:
    """An empty store."""
    return RedisStore(lambda: connected, lambda: DAY)


def send(ledger: Ledger, asker: Asker = ASKER) -> Any:
    """Go through the life of an email."""
    outcome = ledger.claim(asker, POLICY)
    assert isinstance(outcome, Acquired)
    entry = ledger.begin(outcome.entry, [TARGET], MESSAGE_ID, asker, POLICY)
    entry = ledger.settle(entry, ACCEPTED, MESSAGE_ID, asker, POLICY)
    return ledger.complete(entry, {"order_id": 7})


class TestRedisStore(StoreConformance):
    """Conforms."""

    @pytest.fixture
    def store(self, store: Any) -> Any:
        return store


# -- what it costs ---------------------------------------------------------------------------------------


def test_round_trips(connected: Any, store: RedisStore) -> None:
    """Claim 1, hand-over 2, complete 1, duplicate 1: by the server's own count of what clients asked for."""
    ledger = Ledger(store)
    send(ledger, replace(ASKER, key="warm-up"))  # the scripts are known to the server from here on

    def counted(work: Callable[[], Any]) -> tuple[int, int, Any]:
        connected.config_resetstat()
        value = work()
        stats = connected.info("commandstats")
        scripts = stats.pop("cmdstat_evalsha")["calls"]
        inside = {
            f"cmdstat_{name}" for name in ("get", "set", "time", "zadd", "zrem", "config|resetstat", "info")
        }
        others = {name for name in stats if name not in inside}
        return scripts, len(others), value

    claim, others, outcome = counted(lambda: ledger.claim(ASKER, POLICY))
    assert (claim, others) == (1, 0)
    begin, others, entry = counted(lambda: ledger.begin(outcome.entry, [TARGET], MESSAGE_ID, ASKER, POLICY))
    assert (begin, others) == (1, 0)
    settle, others, entry = counted(lambda: ledger.settle(entry, ACCEPTED, MESSAGE_ID, ASKER, POLICY))
    assert (settle, others) == (1, 0)
    complete, others, entry = counted(lambda: ledger.complete(entry, {"order_id": 7}))
    assert (complete, others) == (1, 0)
    duplicate, others, outcome = counted(lambda: ledger.claim(replace(ASKER, task_id="other"), POLICY))
    assert (duplicate, others) == (1, 0)
    assert isinstance(outcome, Duplicate)


def test_memory_of_a_finished_email(connected: Any, store: RedisStore) -> None:
    """Under 700 bytes each, all told: key, value, expiry and the server's own book-keeping."""
    ledger, number = Ledger(store), 2000
    send(ledger, replace(ASKER, key="warm-up"))
    before = connected.info("memory")["used_memory_dataset"] + connected.info("memory")["used_memory_overhead"]
    for n in range(number):
        key = f"1:{n:064x}"
        send(ledger, replace(ASKER, key=key, label=f"order_id={n}, to=a***@example.com", fingerprint="ab" * 32))
    after = connected.info("memory")["used_memory_dataset"] + connected.info("memory")["used_memory_overhead"]
    each = (after - before) / number
    print(f"{each:.0f} bytes for a finished email with one recipient")
    assert each < 700


def test_only_what_is_finished_has_an_end(connected: Any, store: RedisStore) -> None:
    """The time to live comes with the value, and counts from the last write."""
    ledger, place = Ledger(store), PLACE(KEY)
    outcome = ledger.claim(ASKER, POLICY)
    assert connected.pttl(place) == -1
    entry = ledger.begin(outcome.entry, [TARGET], MESSAGE_ID, ASKER, POLICY)
    assert connected.pttl(place) == -1
    entry = ledger.settle(entry, {TARGET: Reply(DeliveryStatus.IN_DOUBT)}, MESSAGE_ID, ASKER, POLICY)
    assert (entry.status, connected.pttl(place)) == (Status.IN_DOUBT, -1)
    send(ledger, replace(ASKER, key="sent"))
    assert 0 <= DAY.total_seconds() * 1000 - connected.pttl(PLACE("sent")) < 10_000
    ledger.claim(replace(ASKER, key="sent", task_id="other"), POLICY)
    assert connected.pttl(PLACE("sent")) > 0, "counting an arrival keeps it"


# -- what goes wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["", "hello", "2 1 1 1 0 {}", "1 1 1 1 0 {}", "1 1 1 1 0 [", '1 x 1 1 0 {"s":"sent"}'],
)
def test_what_is_no_entry_of_ours(connected: Any, store: RedisStore, value: str) -> None:
    """Another program's data, a torn value or a newer version's: named, not sent, not overwritten."""
    connected.set(PLACE(KEY), value)
    ledger = Ledger(store)
    for attempt in (lambda: ledger.claim(ASKER, POLICY), lambda: store.get(KEY)):
        with pytest.raises(EntryUnreadable, match=KEY):
            attempt()
    assert connected.get(PLACE(KEY)).decode().split()[-1:] == value.split()[-1:]


def test_another_type_under_our_key(connected: Any, store: RedisStore) -> None:
    """A list where an entry should be."""
    connected.rpush(PLACE(KEY), "a")
    for attempt in (
        lambda: store.insert(make_entry()),
        lambda: store.swap(make_entry(), 1),
        lambda: store.get(KEY),
    ):
        with pytest.raises(EntryUnreadable, match="another program"):
            attempt()
    assert connected.lrange(PLACE(KEY), 0, -1) == [b"a"]


def test_a_newer_entry_is_not_overwritten_in_the_middle(connected: Any, store: RedisStore) -> None:
    """A newer version of this package took over while this one was at work."""
    ledger = Ledger(store)
    outcome = ledger.claim(ASKER, POLICY)
    connected.set(PLACE(KEY), "2 newer")
    with pytest.raises(EntryUnreadable):
        ledger.begin(outcome.entry, [TARGET], MESSAGE_ID, ASKER, POLICY)
    assert connected.get(PLACE(KEY)) == b"2 newer"


def test_a_lost_script_cache(connected: Any, store: RedisStore) -> None:
    """After a restart or ``SCRIPT FLUSH`` the scripts are given again."""
    ledger = Ledger(store)
    send(ledger)
    connected.script_flush()
    assert isinstance(ledger.claim(replace(ASKER, task_id="other"), POLICY), Duplicate)


def test_out_of_memory(connected: Any, store: RedisStore) -> None:
    """Nothing can be written, so nothing may be sent; when there is room it goes on."""
    ledger = Ledger(store)
    outcome = ledger.claim(ASKER, POLICY)
    connected.config_set("maxmemory", 1)
    for work in (
        lambda: ledger.claim(replace(ASKER, key="new"), POLICY),
        lambda: ledger.begin(outcome.entry, [TARGET], MESSAGE_ID, ASKER, POLICY),
    ):
        with pytest.raises(LedgerUnavailable, match="OutOfMemory"):
            work()
    connected.config_set("maxmemory", 0)
    assert ledger.begin(outcome.entry, [TARGET], MESSAGE_ID, ASKER, POLICY).status is Status.SENDING


def test_a_replica_takes_no_writes_and_is_a_problem() -> None:
    """READONLY is an outage to a send, and named by the check."""
    with Redis() as primary, Redis("--replicaof", "127.0.0.1", str(primary.port)) as replica:
        with client.Redis.from_url(replica.url) as connected:
            store = RedisStore(lambda: connected, lambda: DAY)
            synced(replica)
            with pytest.raises(LedgerUnavailable, match=r"READONLY|read only"):
                store.insert(make_entry())
            assert "replica" in store.problems()[0]
        with client.Redis.from_url(primary.url) as connected:
            assert RedisStore(lambda: connected, lambda: DAY).problems() == []


def test_eviction_is_a_problem(connected: Any, store: RedisStore) -> None:
    """An evicted entry would reopen its email."""
    assert store.problems() == []
    connected.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "noeviction" in store.problems()[0]
    finally:
        connected.config_set("maxmemory-policy", "noeviction")


def test_a_server_that_is_still_loading() -> None:
    """LOADING is an outage that passes."""
    slow = ("--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024")
    with Redis(*slow) as server, client.Redis.from_url(server.url, retry=None) as connected:
        ledger = Ledger(RedisStore(lambda: connected, lambda: DAY))
        send(ledger)
        with connected.pipeline() as pipeline:
            for n in range(40):
                pipeline.set(f"other:{n}", os.urandom(2000))
            pipeline.execute()
        connected.save()
        server.stop()
        server.start()
        with pytest.raises(LedgerUnavailable, match=r"(?i)loading"):
            ledger.claim(replace(ASKER, task_id="other"), POLICY)
        wait_for(lambda: connected.info("persistence")["loading"] == 0)
        assert isinstance(ledger.claim(replace(ASKER, task_id="other"), POLICY), Duplicate)


def test_a_server_that_is_gone(store: RedisStore) -> None:
    """Every primitive says so in the one way that callers know."""
    with client.Redis(port=free_port(), retry=None) as nobody:
        gone = RedisStore(lambda: nobody, lambda: DAY)
        for work in (
            lambda: gone.insert(make_entry()),
            lambda: gone.swap(make_entry(), 1),
            lambda: gone.get(KEY),
            gone.due,
            gone.now,
            gone.problems,
            lambda: gone.purge(1),
            lambda: gone.owe_mirror(KEY),
        ):
            with pytest.raises(LedgerUnavailable, match="does not answer"):
                work()


def test_a_write_ahead_that_no_replica_has_does_not_count() -> None:
    """With ``wait`` a failover cannot forget it: without the replica's word nothing is sent."""
    with Redis() as primary, client.Redis.from_url(primary.url) as connected:
        wait = (1, 2000)
        ledger = Ledger(RedisStore(lambda: connected, lambda: DAY, lambda: wait))
        outcome = ledger.claim(ASKER, POLICY)
        with Redis("--replicaof", "127.0.0.1", str(primary.port)) as replica:
            synced(replica)
            entry = ledger.begin(outcome.entry, [TARGET], MESSAGE_ID, ASKER, POLICY)
            with client.Redis.from_url(replica.url) as second:
                assert b'"s":"sending"' in second.get(PLACE(KEY))
        entry = ledger.settle(entry, ACCEPTED, MESSAGE_ID, ASKER, POLICY)
        wait = (1, 50)
        with pytest.raises(LedgerUnavailable, match="0 of 1 replicas"):
            ledger.begin(entry, [("1", TARGET[1])], MESSAGE_ID, ASKER, POLICY)
        assert ledger.withdraw(entry, [("1", TARGET[1])], MESSAGE_ID, ASKER, POLICY).status is Status.CLAIMED


def test_purge_goes_by_the_age_and_not_by_the_retention(connected: Any) -> None:
    """A longer RETENTION does not make what is seconds old look old; another program's keys stay."""
    retention = DAY
    store = RedisStore(lambda: connected, lambda: retention)
    send(Ledger(store))
    connected.set(PLACE("foreign"), "not ours", ex=1000)
    retention = 90 * DAY
    assert store.purge(older_than=3600) == 0
    assert store.get(KEY) is not None
    assert store.purge(older_than=0) == 1
    assert connected.get(PLACE("foreign")) == b"not ours"


def test_due_forgets_what_has_no_entry_any_more(connected: Any, store: RedisStore) -> None:
    """And one entry that cannot be read does not hide the others."""
    store.insert(make_entry("gone", deadline=After(-5)))
    store.insert(make_entry("torn", deadline=After(-4)))
    store.insert(make_entry("late", deadline=After(-3)))
    connected.delete(PLACE("gone"))
    connected.set(PLACE("torn"), "1 x")
    assert [entry.key for entry in store.due(limit=1)] == ["late"]
    assert not any(connected.zscore(key, PLACE("gone")) for key in connected.keys("idem:due:*"))


def test_an_opaque_claim_that_no_replica_has_leaves_no_doubt() -> None:
    """Its body has not begun, so it is taken back and free for the next try."""
    opaque = replace(POLICY, opaque=True)
    with Redis() as primary, client.Redis.from_url(primary.url) as connected:
        wait: tuple[int, int] | None = (1, 20)
        ledger = Ledger(RedisStore(lambda: connected, lambda: DAY, lambda: wait))
        with pytest.raises(LedgerUnavailable, match="0 of 1 replicas"):
            ledger.claim(ASKER, opaque)
        found = ledger.store.get(KEY)
        assert found is not None
        assert found.entry.status is Status.RELEASED
        wait = None
        outcome = ledger.claim(ASKER, opaque)
        assert isinstance(outcome, Acquired)
        ledger.complete(outcome.entry, "done")
        wait = (1, 20)
        assert isinstance(ledger.claim(replace(ASKER, task_id="other"), opaque), Duplicate)


def test_projects_on_one_redis_are_kept_apart(redis: Redis, settings: Any) -> None:
    """By Celery's own ``global_keyprefix``, and by NAMESPACE."""
    prefixes = set()
    for prefix, namespace in (("", ""), ("staging_", ""), ("", "shop")):
        options = {"global_keyprefix": prefix} if prefix else {}
        ledger = ledger_at(redis.url, settings, result_backend_transport_options=options)
        settings.CELERY_IDEMPOTENT = {"LEDGER": "auto", "NAMESPACE": namespace}
        app = Celery("apart", backend=redis.url, set_as_current=False)
        app.conf.result_backend_transport_options = options
        ledger = wiring.get_ledger(app)
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
    wiring._ledger.cache_clear()
    (found,) = checks.check_settings(None)
    assert found.id == "celery_idempotent.E002"
    assert text in found.msg
    assert "secret" not in found.msg


# -- every way to reach a Redis --------------------------------------------------------------------------


def ledger_at(url: str, settings: Any, **config: Any) -> Ledger:
    """Return the ledger of a project whose results are at ``url``."""
    settings.CELERY_IDEMPOTENT = {"LEDGER": "auto"}
    app = Celery("auto", broker="memory://", backend=url, set_as_current=False)
    app.conf.update(config)
    wiring._ledger.cache_clear()
    ledger = wiring.get_ledger(app)
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
    assert isinstance(wiring.get_ledger().claim(replace(ASKER, task_id="x"), POLICY), Duplicate)


def test_a_unix_socket(tmp_path: Path, settings: Any) -> None:
    """``redis+socket://``, as Celery has it."""
    socket = f"/tmp/idem-{free_port()}.sock"
    with Redis("--unixsocket", socket) as server:
        send(ledger_at(f"redis+socket://{socket}?virtual_host=2", settings))
        with client.Redis(port=server.port, db=2) as connected:
            assert connected.exists(PLACE(KEY))


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
            outcome = ledger.claim(ASKER, POLICY)
            send(ledger, replace(ASKER, key="sent"))
            with client.Redis.from_url(replica.url) as second:
                wait_for(lambda: b'"s":"sent"' in (second.get(PLACE("sent")) or b""))
            primary.stop()
            wait_for(lambda: watched.sentinel_masters()["shop"]["port"] == replica.port)
        entry = wait_for(lambda: patiently(ledger, outcome.entry))
        assert entry.status is Status.SENDING
        assert isinstance(ledger.claim(replace(ASKER, key="sent", task_id="other"), POLICY), Duplicate)


def synced(replica: Redis) -> None:
    """Wait until a replica has all that its primary has."""
    with client.Redis.from_url(replica.url) as connected:
        wait_for(lambda: connected.info("replication")["master_link_status"] == "up")


def patiently(ledger: Ledger, entry: Any) -> Any:
    """Write ahead, or None while the failover is under way."""
    try:
        return ledger.begin(entry, [TARGET], MESSAGE_ID, ASKER, POLICY)
    except LedgerUnavailable:
        return None


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
        ledger = wiring.get_ledger()
        for n in range(30):
            send(ledger, replace(ASKER, key=f"key-{n}"))
        assert isinstance(ledger.claim(replace(ASKER, key="key-7", task_id="other"), POLICY), Duplicate)
        short = replace(POLICY, lease=0.0)
        for n in range(5):
            ledger.claim(replace(ASKER, key=f"late-{n}"), short)
        assert sorted(entry.key for entry in ledger.store.due()) == [f"late-{n}" for n in range(5)]
        assert list(ledger.store.problems()) == []
        assert ledger.store.purge(older_than=-1, limit=10) == 10
        assert ledger.store.purge(older_than=-1) == 20


def in_order(place: str) -> bool:
    """Tell whether the cluster at ``place`` takes writes."""
    with RedisCluster.from_url(f"redis://{place}") as connected:
        return bool(connected.set("probe", "1"))


def test_one_of_many_claims_wins_across_processes_worth_of_clients(redis: Redis, store: RedisStore) -> None:
    """P1: each racer with a connection of its own."""
    from celery_idempotent.testing import race

    for n in range(30):
        asker = replace(ASKER, key=f"race-{n}")

        def claim(racer: int, asker: Asker = asker) -> Any:
            with client.Redis.from_url(redis.url) as own:
                ledger = Ledger(RedisStore(lambda: own, lambda: DAY))
                return ledger.claim(replace(asker, task_id=f"racer-{racer}"), POLICY)

        outcomes = race(claim)
        assert sum(isinstance(outcome, Acquired) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Busy) for outcome in outcomes) == len(outcomes) - 1
