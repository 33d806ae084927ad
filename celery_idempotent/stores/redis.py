"""A store in Redis or Valkey: an entry is one string, and each primitive one small script on one slot.

The scripts take the server's time, compare the version and write in one atomic step. An entry's key carries a
hash tag, which it shares with the sorted set of deadlines of its shard, so that both are in one slot and Redis
Cluster runs the scripts too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from typing import Any
from zlib import crc32

from redis import exceptions

from ..core.codec import decode, encode, packed
from ..core.entry import After, Attempt, Delivery, Entry
from ..core.errors import EntryUnreadable, LedgerUnavailable
from ..core.status import FINISHED, IN_FLIGHT, Status
from ..core.store import Store, Stored

SHARDS = 256
_MICROSECOND = 1e-6


logger = logging.getLogger("celery_idempotent")


class RedisStore(Store):
    """Entries in Redis. ``client`` is a `redis.Redis` or `redis.cluster.RedisCluster`, made when first needed.

    ``retention`` is how long a finished entry lives; what is in flight, released or in doubt has no end. With
    ``wait``, (replicas, milliseconds), a write-ahead counts only once so many replicas have it, so that a
    failover cannot forget it (`WAIT`). ``prefix`` leads every key; braces have a meaning in it.
    """

    def __init__(
        self,
        client: Callable[[], Any],
        retention: Callable[[], timedelta],
        wait: Callable[[], tuple[int, int] | None] = lambda: None,
        prefix: str = "idem",
    ) -> None:
        self._make_client = client
        self._client: Any = None
        self._retention = retention
        self._wait = wait
        self.prefix = re.sub(r"[{}*?\[\]\\]", "_", prefix)

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
        now, value = self._run("get", key, [self.place(key)])
        return None if value is None else Stored(decode(key, value), _moment(now))

    def due(self, limit: int = 100) -> Sequence[Entry]:
        """One script for each shard, then one for each entry; members without an entry are removed."""
        late: list[tuple[float, str]] = []
        for shard in range(SHARDS):
            found = self._run("due", "due", [self._deadlines(shard)], limit)
            late += [(float(score), _text(key)) for key, score in zip(found[::2], found[1::2], strict=True)]
        entries: list[Entry] = []
        for _, place in sorted(late):
            if len(entries) == limit:
                break
            key = self._key(place)
            try:
                stored = self.get(key)
            except EntryUnreadable as error:
                logger.error("%s", error)
                continue
            if stored is not None and stored.entry.status in IN_FLIGHT:
                entries.append(stored.entry)
        return entries

    def purge(self, older_than: float, limit: int = 1000, dry_run: bool = False) -> int:
        """Scan; needed only to remove what the retention would still keep, as Redis removes the rest itself."""
        removed = 0
        with self._translated("purge"):
            for place in self.client.scan_iter(match=f"{self.prefix}:{{*}}:*", count=1000):
                if removed >= limit:
                    break
                removed += self._run("purge", "purge", [place], int(older_than * 1_000_000), int(dry_run))
        return removed

    def naming(self, digest: str) -> Sequence[str]:
        """Scan: Redis has no index of recipients."""
        found, needle = [], packed(digest)
        with self._translated("naming"):
            for place in self.client.scan_iter(match=f"{self.prefix}:{{*}}:*", count=1000):
                if needle in _text(self.client.get(place) or ""):
                    found.append(self._key(_text(place)))
        return found

    def now(self) -> datetime:
        """One command: the server's clock."""
        with self._translated("now"):
            time = self.client.time()
        seconds, microseconds = next(iter(time.values())) if isinstance(time, dict) else time
        return _moment(seconds * 1_000_000 + microseconds)

    def problems(self) -> Sequence[str]:
        """Look at eviction and replication. Raises `LedgerUnavailable`."""
        with self._translated("problems"):
            try:
                info = self.client.info()
            except exceptions.NoPermissionError:
                return ["its Redis user may not run INFO, so that nobody can see whether it evicts keys"]
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
        with self._translated(key):
            self.client.sadd(self._unmirrored, key)

    def owed_mirrors(self, limit: int = 100) -> list[str]:
        """Return up to ``limit`` keys that were noted."""
        with self._translated("mirror"):
            return [_text(key) for key in self.client.srandmember(self._unmirrored, limit)]

    def mirrored(self, key: str) -> None:
        """Forget the note for ``key``."""
        with self._translated(key):
            self.client.srem(self._unmirrored, key)

    # -- keys and errors ---------------------------------------------------------------------------------

    def place(self, key: str) -> str:
        """Return the name in Redis of the entry of ``key``."""
        return f"{self.prefix}:{{{_shard(key):02x}}}:{key}"

    def _key(self, place: str) -> str:
        return place.removeprefix(self.prefix).split(":", 2)[2]

    def _deadlines(self, shard: int) -> str:
        return f"{self.prefix}:due:{{{shard:02x}}}"

    @property
    def _unmirrored(self) -> str:
        return f"{self.prefix}:unmirrored"

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Turn errors of Redis into `LedgerUnavailable`, and about what is stored into `EntryUnreadable`."""
        try:
            yield
        except exceptions.ReadOnlyError as error:
            # After a failover behind a name or a proxy, the pool still holds connections to the old primary.
            if (pool := getattr(self.client, "connection_pool", None)) is not None:
                pool.disconnect()
            raise LedgerUnavailable(f"the ledger in Redis refuses: {type(error).__name__}: {error}") from error
        except exceptions.ResponseError as error:
            text = str(error)
            if "WRONGTYPE" in text or "UNREADABLE" in text:
                raise EntryUnreadable(
                    f"{key}: the Redis key {self.place(key)!r} holds something else than an entry of this "
                    "version. Nothing was sent or changed; does another program use this database?"
                ) from None
            raise LedgerUnavailable(f"the ledger in Redis refuses: {type(error).__name__}: {text}") from error
        except (exceptions.RedisError, exceptions.RedisClusterException) as error:
            raise LedgerUnavailable(
                f"the ledger in Redis does not answer: {type(error).__name__}: {error}"
            ) from error

    # -- scripts -----------------------------------------------------------------------------------------

    def _write(self, script: str, entry: Entry, version: int) -> Any:
        keys = [self.place(entry.key), self._deadlines(_shard(entry.key))]
        arguments = [version, encode(entry), _deadline(entry), self._lifetime(entry)]
        wait = self._wait() if entry.status is Status.SENDING else None
        if wait is None:
            return self._run(script, entry.key, keys, *arguments)
        return self._run_replicated(script, entry.key, keys, arguments, wait)

    def _lifetime(self, entry: Entry) -> int | str:
        return int(self._retention().total_seconds() * 1000) if entry.status in FINISHED else ""

    def _run(self, name: str, key: str, places: Sequence[Any], *arguments: Any) -> Any:
        """Run a script by its digest, and by its text where the server's script cache has lost it."""
        text, digest = _script(name)
        with self._translated(key):
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
        with self._translated(key):
            pipeline = self._node(places[0]).pipeline(transaction=False)
            pipeline.eval(text, len(places), *places, *arguments)
            pipeline.execute_command("WAIT", replicas, milliseconds)
            result, reached = pipeline.execute()
        written = bool(result[0]) if name == "insert" else result[1] is not None
        if written and reached < replicas:
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


def _deadline(entry: Entry) -> str:
    """Return the deadline for the sorted set, in the form of the body; nothing where none is running."""
    if entry.status not in IN_FLIGHT or entry.deadline is None:
        return ""
    if isinstance(entry.deadline, After):
        return f"\x01{entry.deadline.seconds:.6f}\x01"
    return str(int(entry.deadline.timestamp() / _MICROSECOND))


def _moment(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds)


def _text(value: bytes | str) -> str:
    """Return a reply as text, whether or not the client decodes."""
    return value.decode() if isinstance(value, bytes) else value
