"""Chains, groups, chords, links and errbacks with duplicates, in every place of the matrix."""

from __future__ import annotations

from tests.matrix import questions
from tests.matrix.bed import Bed
from tests.matrix.steps import result, subjects
from tests.support.worker import wait_for


def test_canvas_with_duplicates(bed: Bed) -> None:
    """P3: chain, group, chord, link and replace go on as if each duplicate had done the work."""
    first, second, third = (bed.order() for _ in range(3))
    chained, grouped, chorded, replaced = bed.shop.ask(questions.hang_on_duplicates, first, second, third)
    assert chained["order"] == first
    assert [value["order"] for value in grouped] == [first, second, second]
    assert grouped[1] == grouped[2]
    assert [value["order"] for value in chorded] == [second, first]
    assert replaced["order"] == third
    wait_for(lambda: any(line.startswith("noted") for line in bed.shop.bodies()))
    assert subjects(bed) == {str(order): 1 for order in (first, second, third)}


def test_an_errback_is_called_and_the_mail_stays_sent(bed: Bed) -> None:
    """A body that fails after its send fails; called again it does not send again."""
    order = bed.order()
    for n in (1, 2):
        bed.shop.ask(questions.publish_failing, order, f"failing-{n}-{order}")
        assert result(bed, f"failing-{n}-{order}") == "ValueError"
        wait_for(lambda n=n: sum(line.startswith("noted") for line in bed.shop.bodies()) >= n)
    assert subjects(bed) == {str(order): 1}
