"""Keys: one event, one key; two events, two keys; for ever."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_idempotent.exceptions import KeyFieldError
from celery_idempotent.ledger.addresses import SHORT, digest_all, mask, mask_all, normalise, recipient
from celery_idempotent.ledger.keys import FORMAT, bucket_for, canonical, digest, make_key


class Colour(Enum):
    """For the pinned digests."""

    RED = "red"


PINNED = {
    "none": (None, "242091d85d085141"),
    "true": (True, "e9cfb8a0973a026a"),
    "one": (1, "207c79c1daa5c843"),
    "text one": ("1", "33eb066293921872"),
    "float": (1.5, "5783a91d3197fc72"),
    "decimal": (Decimal("1.50"), "94daf53d04dba3e3"),
    "uuid": (UUID(int=7), "8ec5f1c7ec942bdb"),
    "datetime": (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), "6a68879aeb111296"),
    "date": (date(2026, 1, 2), "8e35bd84c8345167"),
    "timedelta": (timedelta(hours=1), "3391112f169e13c6"),
    "enum": (Colour.RED, "b9a9bf0b002134b5"),
    "list": ([1, "a"], "d6b8ed04e966b812"),
    "map": ({"b": 2, "a": 1}, "2c77627767141937"),
    "set": ({2, 1}, "0fafa9458720503c"),
    "bytes": (b"\x00", "8d6694e8521f09fd"),
}


@pytest.mark.parametrize(("value", "known"), PINNED.values(), ids=PINNED.keys())
def test_known_digests_stay(value: object, known: str) -> None:
    """An upgrade that changes one of these reopens every key in every ledger."""
    assert digest(value)[:16] == known


def test_format_is_pinned() -> None:
    """A change of the encoding comes with a new number."""
    assert FORMAT == 1
    assert make_key("", "t", {"a": 1}) == "1:3bb2603f53f5c59e0fc123aacae5a03f7aae8e47434491960ff6af8d1bef0d64"


def test_values_of_different_types_are_different() -> None:
    """1 is not "1", and no two of the pinned values share a digest."""
    assert len({digest(value) for value, _ in PINNED.values()}) == len(PINNED)
    assert digest(1) != digest("1") != digest(1.0)
    assert digest(1) != digest(True)


def test_nothing_runs_together() -> None:
    """{'a': '1_b-2'} and {'a': '1', 'b': '2'} are two events; so are ('ab', 'c') and ('a', 'bc')."""
    assert make_key("", "t", {"a": "1_b-2"}) != make_key("", "t", {"a": "1", "b": "2"})
    assert digest("ab", "c") != digest("a", "bc")
    assert make_key("n", "t", {}) != make_key("", "nt", {})


def test_order_of_mappings_does_not_count() -> None:
    """Mappings are sorted."""
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({1, 2, 3}) == digest({3, 2, 1})


def test_one_instant_has_one_form() -> None:
    """Aware datetimes count as instants, decimals as numbers."""
    east = timezone(timedelta(hours=2))
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    assert digest(noon) == digest(noon.astimezone(east))
    assert digest(Decimal("1.0")) == digest(Decimal("1.00"))


@pytest.mark.parametrize("value", [object(), datetime(2026, 1, 1), float("nan"), Decimal("NaN"), [object()]])
def test_what_has_no_form_is_refused(value: object) -> None:
    """A clear error that names the field, at call time."""
    with pytest.raises(KeyFieldError, match="'order'"):
        make_key("", "confirmation", {"order": value})


simple = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.uuids() | st.dates()
values = st.recursive(simple, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


def typed(value: object) -> object:
    """Return ``value`` with its types visible to ==."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return (type(value), value)


@given(values, values)
def test_equal_digests_mean_equal_values(one: object, other: object) -> None:
    """The encoding is unambiguous."""
    assert (canonical(one) == canonical(other)) == (typed(one) == typed(other))


def test_fixed_buckets_have_sharp_edges() -> None:
    """The last microsecond of an hour belongs to it, the next one does not."""
    hour = timedelta(hours=1)
    start = datetime(2026, 1, 1, 5, tzinfo=timezone.utc)
    last = start + hour - timedelta(microseconds=1)
    assert bucket_for(start, hour) == bucket_for(last, hour) != bucket_for(start + hour, hour)
    with pytest.raises(KeyFieldError, match="naive"):
        bucket_for(datetime(2026, 1, 1), hour)


def test_addresses_have_one_form() -> None:
    """Case, display name and IDNA do not make another recipient."""
    assert normalise("Ann <ANN@Bücher.example>") == normalise("ann@xn--bcher-kva.example")
    assert recipient("ANN@example.com", "s", "masked") == recipient("ann@EXAMPLE.com", "s", "masked")
    assert normalise('"ann.lee+x"@example.com') == "ann.lee+x@example.com", (
        "RFC 5321 §4.1.2: quotes mean nothing"
    )
    assert normalise('"ann lee"@example.com') == '"ann lee"@example.com', "here they are needed"
    assert normalise('"ann..lee"@example.com') == '"ann..lee"@example.com'
    assert recipient("ann@example.com", "s", "masked") != recipient("ann@example.com", "t", "masked")
    assert mask("ann@example.com") == "a***@example.com"
    assert mask_all("550 <ann@example.com>: no") == "550 <a***@example.com>: no"
    assert recipient("ann@example.com", "s", "digest").shown == ""


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('550 <"ann lee"@example.com> no', '550 <"***@example.com> no'),
        ('550 <"ann@home"@example.com> no', '550 <"***@example.com> no'),
        ("550 <'ann.lee'@example.com> no", "550 <'***@example.com> no"),
        (
            "550 http://spf.example/why?id=ann%40example.com;ip=1",
            "550 http://spf.example/why?id=a***@example.com;ip=1",
        ),
        ("to=['ann@example.com', \"bob@example.com\"]", "to=['a***@example.com', \"b***@example.com\"]"),
        ("550 sean.o'brien@example.com no", "550 s***@example.com no"),
        ("550 user 'sean.o'brien@example.com' unknown", "550 user 's***@example.com' unknown"),
        ("D'Arcy: d'arcy@example.com", "D'Arcy: d***@example.com"),
        ("why?id=ann.smith%2Bnews%40example.com", "why?id=a***@example.com"),
        ("why?next=%2Fgo%3Fto%3Dann%40example.com&x=1", "why?next=%2Fgo%3Fto%3Da***@example.com&x=1"),
        ("@example.com, =%40example.com", "@example.com, =%40example.com"),
        (f"{'a' * 400}@example.com and ann@example.com", "*** and a***@example.com"),
    ],
)
def test_an_address_in_a_text_is_masked_however_it_is_written(text: str, masked: str) -> None:
    """P7: a quoted local part (RFC 5321 §4.1.2), an apostrophe in it, and an address within a URL."""
    assert mask_all(text) == masked


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("550 user 'sean.o'brien@example.com' unknown", "sean.o'brien@example.com"),
        ("why?id=ann.smith%2Bnews%40example.com", "ann.smith+news@example.com"),
    ],
)
def test_a_digest_in_a_text_is_that_of_the_whole_address(text: str, address: str) -> None:
    """So that `forget` finds it; nothing of the address is left beside it."""
    shown = digest_all(text, "salt")
    assert recipient(address, "salt", "digest").digest[:SHORT] in shown
    assert not set(re.split(r"[@+']", address)) & set(re.split(r"[^\w.]+", shown))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        *((unit, unit) for unit in ("a", "@", "%40", "=%40a ", '"', '"@', "(", "'")),
        ("ann@x.org ", "a***@x.org "),
        ("ann%40x.org&", "a***@x.org&"),
        ("'a@b' ", "'a***@b' "),
    ],
)
def test_half_a_megabyte_is_masked_at_once(text: str, masked: str) -> None:
    """A server may send as much of anything: in quadratic time this would run into the time limit of tests."""
    times = 500_000 // len(text)
    assert mask_all(text * times) == masked * times


@pytest.mark.process
def test_core_imports_the_standard_library_alone() -> None:
    """Neither Django nor Celery comes in with `core`, nor with the package itself."""
    command = [sys.executable, "-m", "tests.ledger.bare"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == []
