"""A store in Redis or Valkey: an entry is one string, and each primitive one small script on one slot.

The scripts take the server's time, compare the version and write in one atomic step. An entry's key carries a
hash tag, which it shares with the sorted set of deadlines of its shard, so that both are in one slot and Redis
Cluster runs the scripts too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from typing import Any
from zlib import crc32

from redis import exceptions

from ..core.codec import decode, encode
from ..core.entry import After, Attempt, Delivery, Entry
from ..core.errors import EntryUnreadable, LedgerUnavailable
from ..core.status import IN_FLIGHT, Status
from ..core.store import Store, Stored

PREFIX = "idem"
SHARDS = 256
_UNMIRRORED = f"{PREFIX}:unmirrored"
_FINISHED = frozenset({Status.SENT, Status.FAILED, Status.CANCELLED})
_MICROSECOND = 1e-6


class RedisStore(Store):
    """Entries in Redis. ``client`` is a `redis.Redis` or `redis.cluster.RedisCluster`, made when first needed.

    ``retention`` is how long a finished entry lives; what is in flight, released or in doubt has no end. With
    ``wait``, (replicas, milliseconds), a write-ahead counts only once so many replicas have it, so that a
    failover cannot forget it (`WAIT`).
    """

    def __init__(
        self,
        client: Callable[[], Any],
        retention: Callable[[], timedelta],
        wait: Callable[[], tuple[int, int] | None] = lambda: None,
    ) -> None:
        self._make_client = client
        self._client: Any = None
        self._retention = retention
        self._wait = wait

    @property
    def client(self) -> Any:
        """The connection pool of this process."""
        if self._client is None:
            self._client = self._make_client()
        return self._client

    def insert(self, entry: Entry, attempt: Attempt | None = None) -> Stored:
        """One script: one round trip."""
        inserted, now, value = self._write("insert", entry, entry.version)
        return Stored(decode(entry.key, value), _moment(now), bool(inserted))

    def swap(
        self,
        entry: Entry,
        version: int,
        attempt: Attempt | None = None,
        deliveries: Sequence[Delivery] = (),
    ) -> Stored | None:
        """One script: one round trip; with ``wait``, the write-ahead brings a `WAIT` along."""
        now, value = self._write("swap", entry, version)
        return None if value is None else Stored(decode(entry.key, value), _moment(now))

    def get(self, key: str) -> Stored | None:
        """One script: one round trip."""
        now, value = self._run("get", key, [_place(key)])
        return None if value is None else Stored(decode(key, value), _moment(now))

    def due(self, limit: int = 100) -> Sequence[Entry]:
        """One script for each shard, then one for each entry found."""
        late: list[tuple[float, str]] = []
        for shard in range(SHARDS):
            found = self._run("due", "due", [_deadlines(shard)], limit)
            late += [(float(score), key.decode()) for key, score in zip(found[::2], found[1::2], strict=True)]
        entries = []
        for _, place in sorted(late)[:limit]:
            stored = self.get(_key(place))
            if stored is not None and stored.entry.status in IN_FLIGHT:
                entries.append(stored.entry)
        return entries

    def purge(self, older_than: float, limit: int = 1000) -> int:
        """Scan; needed only to remove what the retention would still keep, as Redis removes the rest itself."""
        removed = 0
        with _translated("purge"):
            for place in self.client.scan_iter(match=f"{PREFIX}:{{*}}:*", count=1000):
                if removed >= limit:
                    break
                kept = int(self._retention().total_seconds() * 1000)
                removed += self._run("purge", "purge", [place], kept, int(older_than * 1000))
        return removed

    def now(self) -> datetime:
        """One command: the server's clock."""
        with _translated("now"):
            time = self.client.time()
        seconds, microseconds = next(iter(time.values())) if isinstance(time, dict) else time
        return _moment(seconds * 1_000_000 + microseconds)

    def problems(self) -> Sequence[str]:
        """Look at eviction and replication. Raises `LedgerUnavailable`."""
        with _translated("problems"):
            info = self.client.info()
        nodes = info.values() if "redis_version" not in info else [info]
        found = []
        for node in nodes:
            policy = node.get("maxmemory_policy", "noeviction")
            if policy != "noeviction":
                found.append(
                    f"Redis evicts keys (maxmemory-policy {policy}): an evicted entry reopens its email. "
                    "Set maxmemory-policy to noeviction, or give the ledger a Redis of its own"
                )
            if node.get("role") == "slave" and "redis_version" in info:
                found.append(
                    "this Redis is a replica, which takes no writes: nothing can be sent. Name the primary, or "
                    "use sentinel:// so that it is found after a failover"
                )
        return list(dict.fromkeys(found))

    # -- what the mirror in the database still lacks -----------------------------------------------------

    def owe_mirror(self, key: str) -> None:
        """Note that the mirror could not be brought up to date for ``key``."""
        with _translated(key):
            self.client.sadd(_UNMIRRORED, key)

    def owed_mirrors(self, limit: int = 100) -> list[str]:
        """Return up to ``limit`` keys that were noted."""
        with _translated("mirror"):
            return [key.decode() for key in self.client.srandmember(_UNMIRRORED, limit)]

    def mirrored(self, key: str) -> None:
        """Forget the note for ``key``."""
        with _translated(key):
            self.client.srem(_UNMIRRORED, key)

    # -- scripts -----------------------------------------------------------------------------------------

    def _write(self, script: str, entry: Entry, version: int) -> Any:
        keys = [_place(entry.key), _deadlines(_shard(entry.key))]
        arguments = [version, encode(entry), _deadline(entry), self._lifetime(entry)]
        wait = self._wait() if entry.status is Status.SENDING else None
        if wait is None:
            return self._run(script, entry.key, keys, *arguments)
        return self._run_replicated(script, entry.key, keys, arguments, wait)

    def _lifetime(self, entry: Entry) -> int | str:
        return int(self._retention().total_seconds() * 1000) if entry.status in _FINISHED else ""

    def _run(self, name: str, key: str, places: Sequence[Any], *arguments: Any) -> Any:
        """Run a script by its digest, and by its text where the server's script cache has lost it."""
        text, digest = _script(name)
        with _translated(key):
            try:
                return self.client.evalsha(digest, len(places), *places, *arguments)
            except exceptions.NoScriptError:
                return self.client.eval(text, len(places), *places, *arguments)

    def _run_replicated(
        self, name: str, key: str, places: Sequence[str], arguments: Sequence[Any], wait: tuple[int, int]
    ) -> Any:
        """Run a script and `WAIT`, which counts for the connection that wrote, in one round trip."""
        text, _ = _script(name)
        replicas, milliseconds = wait
        with _translated(key):
            pipeline = self._node(places[0]).pipeline(transaction=False)
            pipeline.eval(text, len(places), *places, *arguments)
            pipeline.execute_command("WAIT", replicas, milliseconds)
            result, reached = pipeline.execute()
        if reached < replicas:
            raise LedgerUnavailable(
                f"{key}: {reached} of {replicas} replicas have the write-ahead after {milliseconds} ms"
            )
        return result

    def _node(self, place: str) -> Any:
        """Return the client of the node that holds ``place``; outside a cluster there is one."""
        find = getattr(self.client, "get_node_from_key", None)
        return find(place).redis_connection if find else self.client


@lru_cache(maxsize=8)
def _script(name: str) -> tuple[str, str]:
    """Return the text and the SHA-1 of a script, as `EVALSHA` wants it."""
    text = (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()


def _shard(key: str) -> int:
    return crc32(key.encode()) % SHARDS


def _place(key: str) -> str:
    return f"{PREFIX}:{{{_shard(key):02x}}}:{key}"


def _key(place: str) -> str:
    return place.split(":", 2)[2]


def _deadlines(shard: int) -> str:
    return f"{PREFIX}:due:{{{shard:02x}}}"


def _deadline(entry: Entry) -> str:
    """Return the deadline for the sorted set, in the form of the body; nothing where none is running."""
    if entry.status not in IN_FLIGHT or entry.deadline is None:
        return ""
    if isinstance(entry.deadline, After):
        return f"\x01{entry.deadline.seconds:.6f}\x01"
    return str(int(entry.deadline.timestamp() / _MICROSECOND))


def _moment(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds)


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """Turn errors of Redis into `LedgerUnavailable`, and those about what is stored into `EntryUnreadable`."""
    try:
        yield
    except exceptions.ResponseError as error:
        text = str(error)
        if "WRONGTYPE" in text or "UNREADABLE" in text:
            raise EntryUnreadable(
                f"{key}: the Redis key {_place(key)!r} holds something else than an entry of this version. "
                "Nothing was sent or changed; does another program use this database?"
            ) from None
        raise LedgerUnavailable(f"the ledger in Redis refuses: {type(error).__name__}: {text}") from error
    except exceptions.RedisError as error:
        raise LedgerUnavailable(
            f"the ledger in Redis does not answer: {type(error).__name__}: {error}"
        ) from error
