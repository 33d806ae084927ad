"""An entry as text: whatever is in it comes back, and no text of a project can pass for a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_idempotent.exceptions import EntryUnreadable
from celery_idempotent.ledger.audit import Intervention
from celery_idempotent.ledger.entry import After, Attempt, Delivery, Entry, Recipient
from celery_idempotent.ledger.status import IN_FLIGHT, DeliveryStatus, Status
from celery_idempotent.stores.redis.serialization import FORMAT, decode, encode

NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=timezone.utc)

texts = st.text(max_size=20)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex) | texts
codes = st.none() | st.integers(200, 599)
statuses = st.sampled_from(DeliveryStatus)
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc)) | st.integers(
    -10_000_000, 10_000_000
).map(lambda us: NOW + timedelta(microseconds=us))
moments = times | st.integers(-100, 10**6).map(After)
results = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
)
deliveries = st.builds(Delivery, texts, st.builds(Recipient, digests, texts), statuses, texts, codes, texts)
attempts = st.builds(
    Attempt,
    number=st.integers(1, 99),
    generation=st.integers(1, 9),
    part=texts,
    task_id=texts.filter(bool),
    worker=texts,
    message_id=texts,
    recipients=st.integers(0, 10_000),
    started_at=moments,
    ended_at=st.none() | moments,
    outcome=statuses,
    code=codes,
    detail=texts,
)
interventions = st.builds(
    Intervention,
    action=texts,
    actor=texts,
    reason=texts,
    at=times,
    generation=st.integers(1, 9),
    found=st.sampled_from(Status),
)
entries = st.builds(
    Entry,
    key=texts,
    email_type=texts,
    status=st.sampled_from(Status),
    owner=texts.filter(bool),
    claim_id=texts.filter(bool),
    generation=st.integers(1, 99),
    deadline=st.none() | moments,
    label=texts,
    fingerprint=digests,
    attempts=st.integers(0, 99),
    result=results,
    error=texts,
    participants=st.lists(texts).map(tuple),
    past=st.lists(texts).map(tuple),
    audit=st.lists(interventions, max_size=2).map(tuple),
    begun_at=st.none() | moments,
    sent_at=st.none() | moments,
    created_at=st.just(NOW),
    deliveries=st.lists(deliveries, max_size=3).map(tuple),
    history=st.lists(attempts, max_size=3).map(tuple),
    unfinished=st.booleans(),
)


def stored(entry: Entry, version: int = 1, changed: int = 0) -> str:
    """Do what a store does ``changed`` microseconds after it was created: put the head before the body."""
    us = (NOW - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)
    return f"{FORMAT} {version} {entry.arrivals} {us} {changed} {encode(entry)}"


entries = entries.map(
    lambda entry: replace(entry, deadline=entry.deadline or After(1)) if entry.status in IN_FLIGHT else entry
)


@given(entries, st.integers(-1_000_000, 10**12))
def test_what_goes_in_comes_out(entry: Entry, changed: int) -> None:
    """Times that the store fills in count from the last write, and every text is as it was."""
    line = stored(entry, entry.version, changed)
    assert decode(entry.key, line.encode()) == entry.with_times(NOW + timedelta(microseconds=changed))


@given(st.text(alphabet="+-0123456789", max_size=20))
def test_no_text_is_taken_for_a_time(text: str) -> None:
    """Not even one that looks like a time which counts from the last write, wherever a project has its say."""
    rows = (Delivery(text, Recipient(text, text), DeliveryStatus.ACCEPTED, text, 250, text),)
    entry = Entry("k", text, Status.SENT, text or "t", "c", label=text, created_at=NOW, deliveries=rows)
    entry = replace(entry, result=[text, {text: text}], error=text, fingerprint=text)
    assert decode("k", stored(entry, changed=5)) == entry


@given(st.text(), st.integers())
def test_noise_is_unreadable_and_names_the_key(noise: str, version: int) -> None:
    """One kind of error, whatever is found."""
    for value in (noise, f"2 {version} 1 1 0 {noise}", f"3 {noise}"):
        with pytest.raises(EntryUnreadable, match=r"^the-key: "):
            decode("the-key", value)


@pytest.mark.parametrize(
    "known", ['2 3 2 1795521600123456 7 {"s":"sent","t":"m","o":"t","c":"x","r":[1],"b":0,"w":"+5"}']
)
def test_the_format_is_pinned(known: str) -> None:
    """A change here comes with a new number: workers of two versions share one Redis during a deployment."""
    entry: Any = decode("k", known)
    assert (entry.version, entry.arrivals, entry.result, entry.begun_at) == (3, 2, [1], NOW)
    assert entry.sent_at == NOW + timedelta(microseconds=7 + 5)
    assert stored(replace(entry, sent_at=After(5e-6)), 3, 7) == known
