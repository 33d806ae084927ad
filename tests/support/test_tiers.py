"""The tiers themselves: the sample of the matrix is fair, and a tier runs what it says."""

from __future__ import annotations

from collections import Counter
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from tests import matrix
from tests.support import tiers
from tests.support.progress import part_of


@pytest.mark.parametrize("seed", range(5))
def test_a_sample_has_each_broker_with_each_pool_and_ledger(seed: int) -> None:
    """Eight places of the matrix, each ledger in two of them, once with either broker."""
    places = matrix.sample(seed)
    assert len(places) == 8
    assert set(places) <= set(matrix.MATRIX)
    assert {(place.broker, place.pool) for place in places} == set(product(matrix.BROKERS, matrix.POOLS))
    assert {(place.broker, place.ledger) for place in places} == set(product(matrix.BROKERS, matrix.LEDGERS))
    assert Counter(place.ledger for place in places) == dict.fromkeys(matrix.LEDGERS, 2)


@pytest.mark.parametrize("seed", range(4))
def test_two_successive_samples_have_each_ledger_with_each_pool(seed: int) -> None:
    """No pair of a ledger and a pool waits for longer than two samples, the last followed by the first."""
    both = matrix.sample(seed) + matrix.sample(seed + 1)
    assert {(place.ledger, place.pool) for place in both} == set(product(matrix.LEDGERS, matrix.POOLS))


def test_four_samples_are_the_whole_matrix() -> None:
    """Each place has its turn, once."""
    assert sorted(place for seed in range(4) for place in matrix.sample(seed)) == sorted(matrix.MATRIX)


def test_a_seed_is_given_or_the_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """``MATRIX_SEED`` repeats a sample; without it, the same commit has the same sample."""
    monkeypatch.setenv("MATRIX_SEED", "3")
    assert matrix.seed() == 3
    monkeypatch.delenv("MATRIX_SEED")
    monkeypatch.setattr(matrix.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="0f6\n"))
    assert matrix.seed() == 2


def test_without_git_the_seed_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source archive has no commit."""

    def run(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.delenv("MATRIX_SEED", raising=False)
    monkeypatch.setattr(matrix.subprocess, "run", run)
    assert matrix.seed() == 0


def asking(*fixtures: str, mark: str = "", **parameters: Any) -> Any:
    """Return what pytest knows of a test."""
    marks = {mark: True}
    return SimpleNamespace(
        fixturenames=fixtures, callspec=SimpleNamespace(params=parameters), get_closest_marker=marks.get
    )


IN_PROCESS, SERVED, MARKED = asking("settings"), asking("shop", "shop_process"), asking(mark="process")
PARAMETRIZED, FULL = asking(place="redis"), asking(mark="full")
SAMPLED, OTHER = (asking("bed", "combination", combination=matrix.sample(seed)[0]) for seed in (0, 1))


@pytest.mark.parametrize(
    ("tier", "run"),
    [
        ("quick", [IN_PROCESS]),
        ("test", [IN_PROCESS, SERVED, MARKED, PARAMETRIZED, SAMPLED]),
        ("all", [IN_PROCESS, SERVED, MARKED, PARAMETRIZED, SAMPLED, FULL, OTHER]),
        ("", [IN_PROCESS, SERVED, MARKED, PARAMETRIZED, SAMPLED, FULL, OTHER]),
    ],
)
def test_a_tier_runs_what_it_says(monkeypatch: pytest.MonkeyPatch, tier: str, run: list[Any]) -> None:
    """Each tier has the tests of the one before; without a tier, whatever is named runs."""
    monkeypatch.setenv("TEST_TIER", tier)
    monkeypatch.setenv("MATRIX_SEED", "0")
    every = [IN_PROCESS, SERVED, MARKED, PARAMETRIZED, SAMPLED, FULL, OTHER]
    assert [test for test in every if tiers.runs(test)] == run


@pytest.mark.parametrize(("tier", "size"), [("quick", 3), ("test", 3), ("", 3), ("all", 90)])
def test_a_size_is_full_in_the_last_tier_alone(monkeypatch: pytest.MonkeyPatch, tier: str, size: int) -> None:
    """A test that a developer runs by its path has the size that it has in ``make test``."""
    monkeypatch.setenv("TEST_TIER", tier)
    assert tiers.sized(test=3, all=90) == size


def test_a_process_fails_the_test_that_starts_it() -> None:
    """And says what to do; whatever else Python tells its audit hooks is no matter."""
    tiers.forbid_processes("open", ("file",))
    with pytest.raises(pytest.fail.Exception, match="mark the test `process`"):
        tiers.forbid_processes("subprocess.Popen", ("redis-server",))


def test_a_part_is_a_folder_or_a_place_of_the_matrix() -> None:
    """Progress is told by these."""
    assert part_of("tests/mail/provider_keys/test_this.py::test_that[a/b]") == "tests/mail"
    assert part_of("tests/test_docs.py::test_links") == "tests"
    assert part_of("tests/matrix/test_bed.py::test_x[redis-sqlite-solo]") == "matrix redis-sqlite-solo"
