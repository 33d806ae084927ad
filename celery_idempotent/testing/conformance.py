"""The conformance suite of stores: each test holds one promise that `Ledger` relies upon."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from ..ledger.audit import Intervention
from ..ledger.decisions import Operator
from ..ledger.entry import After, Delivery, Entry, Recipient
from ..ledger.erasure import FORGOTTEN
from ..ledger.ledger import Ledger
from ..ledger.status import DeliveryStatus, Status
from ..ledger.store import Store
from .factories import ANN, BOB, KEY, make_attempt, make_entry, race


class StoreConformance:
    """The promises of a `Store` to `Ledger`. Each test gets an empty ``store``."""

    def test_insert_writes_once_and_then_counts(self, store: Store) -> None:
        """The second insert of a key changes nothing but the number of arrivals."""
        first = store.insert(make_entry())
        second = store.insert(make_entry(owner="task-2"))
        assert first.inserted
        assert not second.inserted
        assert (second.entry.owner, second.entry.version, second.entry.arrivals) == ("task-1", 1, 2)

    def test_times_are_filled_in_by_the_stores_clock(self, store: Store) -> None:
        """``After(seconds)`` is counted from the store's now, in the write itself."""
        stored = store.insert(make_entry(deadline=After(90)))
        assert isinstance(stored.entry.deadline, datetime)
        assert isinstance(stored.entry.created_at, datetime)
        wait = stored.entry.deadline - stored.entry.created_at
        assert abs(wait - timedelta(seconds=90)) < timedelta(seconds=1)
        assert abs(stored.now - store.now()) < timedelta(seconds=5)
        assert stored.now.utcoffset() == timedelta(0)

    def test_swap_needs_the_stored_version(self, store: Store) -> None:
        """A swap that names an older version changes nothing and says so."""
        entry = store.insert(make_entry()).entry
        swapped = store.swap(replace(entry, owner="task-2"), entry.version)
        assert swapped is not None
        assert swapped.entry.version == entry.version + 1
        assert store.swap(replace(entry, owner="task-3"), entry.version) is None
        found = store.get(KEY)
        assert found is not None
        assert found.entry.owner == "task-2"

    def test_swap_of_an_absent_key_is_refused(self, store: Store) -> None:
        """Nothing is resurrected."""
        assert store.swap(make_entry(), 1) is None
        assert store.get(KEY) is None

    def test_what_is_written_is_read(self, store: Store) -> None:
        """Every field of an entry survives the store."""
        told = (("delivered", datetime(2026, 1, 2, 3, 4, 5, 678, timezone.utc)),)
        delivery = Delivery("0", ANN, DeliveryStatus.ACCEPTED, "<m@x>", 250, "queued", told)
        entry = store.insert(make_entry(label="order=1", fingerprint="f" * 64)).entry
        wanted = replace(
            entry,
            status=Status.SENT,
            deadline=None,
            generation=1,
            attempts=1,
            result={"a": [1, None, "ü"]},
            error="ValueError",
            participants=("task-1", "task-2"),
            past=("task-0",),
            audit=(Intervention("reopened", "ann", "asked for, ü", store.now(), 1, Status.SENT),),
            sent_at=After(),
            deliveries=(delivery,),
            unfinished=True,
        )
        done = make_attempt(ended_at=After(), outcome=DeliveryStatus.ACCEPTED)
        swapped = store.swap(wanted, entry.version, done, [delivery])
        found = store.get(KEY)
        assert swapped is not None
        assert found is not None
        assert found.entry == swapped.entry
        assert found.entry == replace(wanted, version=2, sent_at=found.entry.sent_at)
        store.swap(replace(found.entry, unfinished=False), 2)
        found = store.get(KEY)
        assert found is not None
        assert found.entry.unfinished is False

    def test_what_can_be_offered_again_is_kept_and_erased(self, store: Store) -> None:
        """Key, content and the time until which they count come back as written, and go when told to."""
        entry = store.insert(make_entry()).entry
        wanted = replace(
            entry,
            status=Status.SENDING,
            provider_key="key",
            recognised_until=After(3600),
            offers=2,
            sealed="gAAAA" * 20_000,
        )
        swapped = store.swap(wanted, entry.version)
        found = store.get(KEY)
        assert swapped is not None
        assert found is not None
        assert found.entry == swapped.entry
        assert isinstance(found.entry.recognised_until, datetime)
        assert abs(found.entry.recognised_until - found.now - timedelta(hours=1)) < timedelta(seconds=5)
        assert (found.entry.provider_key, found.entry.offers, found.entry.sealed) == ("key", 2, wanted.sealed)
        erased = replace(found.entry, provider_key="", recognised_until=None, offers=0, sealed="")
        store.swap(erased, found.entry.version)
        found = store.get(KEY)
        assert found is not None
        assert found.entry == replace(erased, version=3)

    def test_deliveries_are_those_of_the_generation(self, store: Store) -> None:
        """A new generation starts with none; a delivery that changes is replaced, not added."""
        entry = store.insert(make_entry()).entry
        rows = tuple(Delivery("0", ANN, status, "<m@x>") for status in (DeliveryStatus.SENDING,))
        entry = self._swap(store, replace(entry, attempts=1, deliveries=rows), rows)
        rows = (Delivery("0", ANN, DeliveryStatus.ACCEPTED, "<m@x>", 250),)
        entry = self._swap(store, replace(entry, deliveries=rows), rows)
        found = store.get(KEY)
        assert found is not None
        assert found.entry.deliveries == rows
        self._swap(store, replace(entry, generation=2, attempts=0, deliveries=()), ())
        found = store.get(KEY)
        assert found is not None
        assert found.entry.deliveries == ()

    def test_an_insert_returns_what_belongs_together(self, store: Store) -> None:
        """While others write, the deliveries that come with an entry are not older than its version."""
        entry = store.insert(make_entry(attempts=1)).entry
        stop = threading.Event()

        def write(entry: Entry) -> None:
            try:
                for version in range(1, 60):
                    told = Delivery("0", ANN, DeliveryStatus.ACCEPTED, "<m@x>", 250, str(version + 1))
                    entry = self._swap(store, replace(entry, deliveries=(told,)), (told,))
            finally:
                stop.set()

        def read() -> list[tuple[int, int]]:
            seen = []
            while not stop.is_set():
                found = store.insert(make_entry()).entry
                seen += [(found.version, int(d.detail)) for d in found.deliveries]
            return seen

        work = [lambda: write(entry), read, read]
        results = race(lambda n: work[n](), len(work))
        pairs = [pair for seen in results if seen for pair in seen]
        assert [(version, told) for version, told in pairs if told < version] == []

    def _swap(self, store: Store, entry: Entry, rows: tuple[Delivery, ...]) -> Entry:
        stored = store.swap(entry, entry.version, None, rows)
        assert stored is not None
        return stored.entry

    def test_ten_thousand_recipients(self, store: Store) -> None:
        """A long list is one write."""
        people = [Recipient(f"{n:064x}", f"p{n}***@example.com") for n in range(10_000)]
        rows = tuple(Delivery("0", who, DeliveryStatus.ACCEPTED, "<m@x>", 250) for who in people)
        entry = store.insert(make_entry()).entry
        self._swap(store, replace(entry, attempts=1, deliveries=rows), rows)
        found = store.get(KEY)
        assert found is not None
        assert len(found.entry.deliveries) == 10_000

    def test_one_insert_wins(self, store: Store) -> None:
        """Of many inserts at once exactly one writes."""
        stored = race(lambda n: store.insert(make_entry(owner=f"task-{n}")))
        winners = [s for s in stored if s.inserted]
        assert len(winners) == 1
        assert {s.entry.owner for s in stored} == {winners[0].entry.owner}
        found = store.get(KEY)
        assert found is not None
        assert found.entry.arrivals == len(stored)

    def test_one_swap_wins(self, store: Store) -> None:
        """Of many swaps of one version exactly one succeeds, and it is the one that is stored."""
        entry = store.insert(make_entry()).entry
        swapped = race(lambda n: store.swap(replace(entry, owner=f"task-{n}"), entry.version))
        winners = [s for s in swapped if s is not None]
        found = store.get(KEY)
        assert len(winners) == 1
        assert found is not None
        assert found.entry.owner == winners[0].entry.owner

    def test_many_are_read_at_once(self, store: Store) -> None:
        """Those that are there, each under its key and with the store's clock; the others are left out."""
        for key in ("a", "b"):
            store.insert(make_entry(key, owner=f"task-{key}"))
        found = store.get_many(["a", "b", "absent"])
        assert {key: stored.entry.owner for key, stored in found.items()} == {"a": "task-a", "b": "task-b"}
        assert all(abs(stored.now - store.now()) < timedelta(seconds=5) for stored in found.values())
        assert store.get_many([]) == {}

    def test_due_finds_passed_deadlines_alone(self, store: Store) -> None:
        """Oldest first; running ones, finished ones and reserved ones are not due."""
        store.insert(make_entry("late", deadline=After(-5)))
        store.insert(make_entry("later", status=Status.SENDING, deadline=After(-50)))
        store.insert(make_entry("running"))
        store.insert(make_entry("reserved", status=Status.RELEASED, deadline=After(-5)))
        store.insert(make_entry("sent", status=Status.SENT, deadline=None))
        store.insert(make_entry("cut-off", status=Status.SENT, deadline=After(-99), unfinished=True))
        assert [entry.key for entry in store.due()] == ["later", "late"]
        assert [entry.key for entry in store.due(limit=1)] == ["later"]

    def test_purge_takes_only_what_is_finished(self, store: Store) -> None:
        """In flight, released or in doubt stays, whatever its age."""
        for status in Status:
            store.insert(make_entry(status.value, status=status))
        assert store.purge(older_than=3600) == 0
        assert store.purge(older_than=-1, limit=2) == 2
        assert store.purge(older_than=-1) == 1
        kept = {status for status in Status if store.get(status.value)}
        assert kept == {Status.CLAIMED, Status.SENDING, Status.RELEASED, Status.IN_DOUBT}

    def test_a_dry_run_counts_and_removes_nothing(self, store: Store) -> None:
        """What it counts is what a purge would take."""
        for status in Status:
            store.insert(make_entry(status.value, status=status))
        assert store.purge(older_than=-1, dry_run=True) == 3
        assert store.purge(older_than=-1, limit=2, dry_run=True) == 2
        assert store.purge(older_than=3600, dry_run=True) == 0
        assert store.purge(older_than=-1) == 3

    def test_a_recipient_is_found_and_forgotten(self, store: Store) -> None:
        """In the entry and in whatever is kept beside it, also of earlier generations; others stay."""
        for key, who in (("ann", ANN), ("bob", BOB), ("both", ANN)):
            rows: tuple[Delivery, ...] = (
                Delivery("0", who, DeliveryStatus.ACCEPTED, "<m@x>", 250, "to a***@x"),
            )
            entry = store.insert(make_entry(key, status=Status.SENT, deadline=None, attempts=1)).entry
            entry = self._swap(store, replace(entry, deliveries=rows), rows)
            if key == "both":
                rows = (*rows, Delivery("0", BOB, DeliveryStatus.ACCEPTED, "<m@x>", 250))
                entry = replace(entry, generation=2, deliveries=())
                self._swap(store, replace(entry, attempts=1, deliveries=rows), rows)
        assert set(store.naming(ANN.digest)) == {"ann", "both"}
        operator = Operator(Ledger(store), "ann", "asked to be forgotten")
        for key in store.naming(ANN.digest):
            found = store.get(key)
            assert found is not None
            operator.forget(found.entry, ANN.digest, ["a***@x"])
            store.erase(key, ANN.digest, ["a***@x"])
        assert list(store.naming(ANN.digest)) == []
        assert set(store.naming(BOB.digest)) == {"bob", "both"}
        found = store.get("both")
        assert found is not None
        assert {d.recipient.shown for d in found.entry.deliveries} == {FORGOTTEN, BOB.shown}
        assert "a***" not in repr(found.entry)
        assert found.entry.status is Status.SENT
