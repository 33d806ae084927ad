"""A store in Redis or Valkey: an entry is one string, and each primitive one small script on one slot.

The scripts take the server's time, compare the version and write in one atomic step. An entry's key carries a
hash tag, which it shares with the sorted set of deadlines of its shard, so that both are in one slot and Redis
Cluster runs the scripts too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any
from zlib import crc32

from redis import exceptions

from ...exceptions import EntryUnreadable, LedgerUnavailable
from ...ledger.entry import After, Attempt, Delivery, Entry
from ...ledger.status import FINISHED, IN_FLIGHT, Status
from ...ledger.store import Store, Stored
from .scripts import Scripts, as_text
from .serialization import decode, encode, packed, signed

_SHARDS = 256
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
        self._scripts = Scripts(client)
        self._retention = retention
        self._wait = wait
        self.prefix = re.sub(r"[{}*?\[\]\\]", "_", prefix)

    @property
    def client(self) -> Any:
        """The connection pool of this process."""
        return self._scripts.client

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
        now, value = self._scripts.run("get", [self.place(key)])
        return None if value is None else Stored(decode(key, value), _moment(now))

    def due(self, limit: int = 100) -> Sequence[Entry]:
        """One script for each shard, then one for each entry; members without an entry are removed."""
        late: list[tuple[float, str]] = []
        for shard in range(_SHARDS):
            found = self._scripts.run("due", [self._deadlines(shard)], limit)
            late += [(float(score), as_text(key)) for key, score in zip(found[::2], found[1::2], strict=True)]
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
        for place in self._entries():
            if removed >= limit:
                break
            removed += self._scripts.run("purge", [place], int(older_than * 1_000_000), int(dry_run))
        return removed

    def naming(self, digest: str) -> Sequence[str]:
        """Scan: Redis has no index of recipients."""
        found, needle = [], packed(digest)
        for place in self._entries():
            with self._scripts.translated(place):
                value = self.client.get(place)
            if needle in as_text(value or ""):
                found.append(self._key(as_text(place)))
        return found

    def _entries(self) -> Iterator[Any]:
        """Yield the names in Redis of all entries."""
        pattern = f"{self.prefix}:{{*}}:*"
        with self._scripts.translated(pattern):
            yield from self.client.scan_iter(match=pattern, count=1000)

    def now(self) -> datetime:
        """One command: the server's clock."""
        with self._scripts.translated("TIME"):
            time = self.client.time()
        seconds, microseconds = next(iter(time.values())) if isinstance(time, dict) else time
        return _moment(seconds * 1_000_000 + microseconds)

    def problems(self) -> Sequence[str]:
        """Look at eviction and replication. Raises `LedgerUnavailable`."""
        with self._scripts.translated("INFO"):
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

    def mark_stale(self, key: str) -> None:
        """Note that the mirror could not be brought up to date for ``key``."""
        with self._scripts.translated(self._unmirrored):
            self.client.sadd(self._unmirrored, key)

    def stale_keys(self, limit: int = 100) -> list[str]:
        """Return up to ``limit`` keys that were noted."""
        with self._scripts.translated(self._unmirrored):
            return [as_text(key) for key in self.client.srandmember(self._unmirrored, limit)]

    def clear_stale(self, key: str) -> None:
        """Forget the note for ``key``."""
        with self._scripts.translated(self._unmirrored):
            self.client.srem(self._unmirrored, key)

    # -- names in Redis ----------------------------------------------------------------------------------

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

    # -- writing -----------------------------------------------------------------------------------------

    def _write(self, script: str, entry: Entry, version: int) -> Any:
        """Run one of the two scripts that write; with ``wait``, a write-ahead counts once replicas have it."""
        places = [self.place(entry.key), self._deadlines(_shard(entry.key))]
        arguments = [version, encode(entry), _deadline(entry), self._lifetime(entry)]
        wait = self._wait() if entry.status is Status.SENDING else None
        if wait is None:
            return self._scripts.run(script, places, *arguments)
        result, reached = self._scripts.run_replicated(script, places, arguments, *wait)
        written = bool(result[0]) if script == "insert" else result[1] is not None
        if written and reached < wait[0]:
            raise LedgerUnavailable(
                f"{entry.key}: {reached} of {wait[0]} replicas have the write-ahead after {wait[1]} ms"
            )
        return result

    def _lifetime(self, entry: Entry) -> int | str:
        return int(self._retention().total_seconds() * 1000) if entry.status in FINISHED else ""


def _shard(key: str) -> int:
    return crc32(key.encode()) % _SHARDS


def _deadline(entry: Entry) -> str:
    """Return the deadline for the sorted set, signed where it counts from the write; "" where there is none."""
    if entry.status not in IN_FLIGHT or entry.deadline is None:
        return ""
    if isinstance(entry.deadline, After):
        return signed(entry.deadline)
    return str(int(entry.deadline.timestamp() / _MICROSECOND))


def _moment(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds)
