"""`Ledger.done`: a publisher may answer what a claim would answer, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_idempotent.ledger.ledger import Ledger
from tests.ledger.entry_stages import POLICY, TWO, claimed, sent


@pytest.mark.parametrize("refuses", [False, True])
def test_other_content_is_answered_only_where_a_claim_would_answer_it(ledger: Ledger, refuses: bool) -> None:
    """With ``on_mismatch="raise"`` it is published, so that the worker refuses it."""
    done = sent(ledger)
    policy = replace(POLICY, raise_on_mismatch=refuses)
    assert ledger.done(TWO, policy) == done
    assert ledger.done(replace(TWO, fingerprint="g"), policy) == (None if refuses else done)


def test_nothing_but_what_is_sent_is_answered(ledger: Ledger) -> None:
    """A key that is new or being worked on is for a worker to claim."""
    assert ledger.done(TWO, POLICY) is None
    claimed(ledger)
    assert ledger.done(TWO, POLICY) is None
