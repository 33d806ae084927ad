"""Lua scripts on a Redis server: run in one round trip, and what the server's errors mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis import exceptions

from ...exceptions import EntryUnreadable, LedgerUnavailable


class Scripts:
    """The scripts of this package on the server of ``client``, which is made when first needed.

    Each method raises `LedgerUnavailable`, or `EntryUnreadable` about what is stored under a name.
    """

    def __init__(self, client: Callable[[], Any]) -> None:
        self._make_client = client
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The connection pool of this process."""
        if self._client is None:
            self._client = self._make_client()
        return self._client

    def run(self, script: str, places: Sequence[Any], *arguments: Any) -> Any:
        """Run a script by its digest, and by its text where the server's script cache has lost it."""
        text, digest = _script(script)
        with self.translated(places[0]):
            try:
                return self.client.evalsha(digest, len(places), *places, *arguments)
            except exceptions.NoScriptError:
                return self.client.eval(text, len(places), *places, *arguments)

    def run_replicated(
        self, script: str, places: Sequence[str], arguments: Sequence[Any], replicas: int, milliseconds: int
    ) -> tuple[Any, int]:
        """Run a script and `WAIT`, which counts for the connection that wrote, in one round trip.

        Return what the script returns, and how many replicas have it.
        """
        text, _ = _script(script)
        with self.translated(places[0]):
            pipeline = self._node(places[0]).pipeline(transaction=False)
            pipeline.eval(text, len(places), *places, *arguments)
            pipeline.execute_command("WAIT", replicas, milliseconds)
            result, reached = pipeline.execute()
        return result, reached

    def _node(self, place: str) -> Any:
        """Return the client of the node that holds ``place``; outside a cluster there is one."""
        find = getattr(self.client, "get_node_from_key", None)
        return find(place).redis_connection if find else self.client

    @contextmanager
    def translated(self, place: bytes | str) -> Iterator[None]:
        """Turn errors of Redis into ours. ``place`` is the name in Redis of what is read or written."""
        try:
            yield
        except exceptions.ReadOnlyError as error:
            # After a failover behind a name or a proxy, the pool still holds connections to the old primary.
            if (pool := getattr(self.client, "connection_pool", None)) is not None:
                pool.disconnect()
            raise LedgerUnavailable(f"the ledger in Redis refuses: {type(error).__name__}: {error}") from error
        except exceptions.ResponseError as error:
            said = str(error)
            if "WRONGTYPE" in said or "UNREADABLE" in said:
                raise EntryUnreadable(
                    f"the Redis key {as_text(place)!r} holds something else than an entry of this version. "
                    "Nothing was sent or changed; does another program use this database?"
                ) from None
            raise LedgerUnavailable(f"the ledger in Redis refuses: {type(error).__name__}: {said}") from error
        except (exceptions.RedisError, exceptions.RedisClusterException) as error:
            raise LedgerUnavailable(
                f"the ledger in Redis does not answer: {type(error).__name__}: {error}"
            ) from error


@lru_cache(maxsize=8)
def _script(name: str) -> tuple[str, str]:
    """Return the text and the SHA-1 of a script, as `EVALSHA` wants it."""
    text = (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()


def as_text(value: bytes | str) -> str:
    """Return a reply as text, whether or not the client decodes."""
    return value.decode() if isinstance(value, bytes) else value
