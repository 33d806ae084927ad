"""Bad input is a clear error at the earliest moment, and nothing is lost."""

from __future__ import annotations

import pickle
import smtplib
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import (
    ArgumentsNotSerializable,
    ClaimLost,
    DeliveryInDoubt,
    IdempotentEmailTask,
    IdempotentTask,
    InProgress,
    KeyFieldError,
    PayloadMismatch,
    RecipientsDeferred,
    RecipientsRefused,
    Status,
)
from celery_idempotent.ledger.policy import Claimant, Policy
from tests.support.mailserver import ScriptedSMTP
from tests.support.tiers import sized

app = Celery("bad-input", broker="memory://", backend="cache+memory://", set_as_current=False)


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any, tracked: None) -> None:
    """Every test here starts with an empty ledger."""


@app.task(base=IdempotentTask, key_fields=("basket.id", "to"), name="dotted")
def dotted(basket: Any, to: str = "ann@example.com") -> Any:
    return basket


def test_one_call_has_one_key() -> None:
    """Positional, keyword, default and the case of an address make no difference; a type does."""
    keys = {
        dotted.key_for({"id": 1}),
        dotted.key_for(basket={"id": 1}),
        dotted.key_for({"id": 1}, "ANN@Example.com"),
        dotted.key_for({"id": 1, "other": 2}, to="ann@example.com"),
    }
    assert len(keys) == 1
    assert dotted.key_for({"id": "1"}) not in keys


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (({},), "dotted: key field 'basket.id' is missing"),
        ((), "dotted: the call does not fit the task"),
        (({"id": object()},), "key field 'basket.id': a value of type object"),
    ],
)
def test_a_call_without_its_key_is_refused_before_it_is_published(args: Any, text: str) -> None:
    """Also by delay_on_commit, now and not after the commit."""
    for publish in (dotted.delay, dotted.delay_on_commit, dotted.key_for):
        with pytest.raises(KeyFieldError, match="dotted") as error:
            publish(*args)
        assert text in str(error.value)


def test_a_result_that_is_not_json_lets_the_send_stand(caplog: Any) -> None:
    """A warning, and None for the duplicates."""

    @app.task(base=IdempotentTask, key_fields=("n",), name="odd-result")
    def odd(n: int) -> Any:
        return object

    assert odd.apply((1,)).get() is object
    assert "not JSON" in caplog.text
    assert odd.entry_for(1).status is Status.SENT
    assert odd.apply((1,)).get() is None


def test_a_result_comes_back_as_celery_would_give_it() -> None:
    """Dates and decimals survive the ledger; tuples are lists, as in AsyncResult.get()."""
    from datetime import datetime, timezone
    from decimal import Decimal

    result = {"at": datetime(2026, 1, 1, tzinfo=timezone.utc), "sum": Decimal("1.50"), "pair": (1, 2)}

    @app.task(base=IdempotentTask, key_fields=("n",), name="rich-result")
    def rich(n: int) -> Any:
        return result

    rich.apply((1,))
    assert rich.apply((1,)).get() == {**result, "pair": [1, 2]}


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="mailing")
def mailing(n: int, to: list[str]) -> int:
    return EmailMessage("Hi", "text", to=to).send()


def test_a_mail_without_recipients_is_nothing_to_send(settings: Any, caplog: Any) -> None:
    """As in Django it is 0; that the task sent nothing is logged."""
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        assert mailing.apply((1, [])).get() == 0
    assert server.connections == 0
    assert "without handing any mail over" in caplog.text


def test_header_injection_is_refused_before_anything_is_written(settings: Any) -> None:
    """Nothing on the wire, nothing in doubt."""
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        result = mailing.apply((2, ["ann@example.com\nBcc: eve@example.com"]))
    assert isinstance(result.result, ValueError)
    assert server.connections == 0
    assert mailing.entry_for(2, []).status is Status.FAILED


def test_a_non_ascii_domain_goes_out_in_ascii_and_counts_once(settings: Any) -> None:
    """IDNA on the wire, one recipient in the ledger."""
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        assert mailing.apply((3, ["ann@bücher.example", "ANN@xn--bcher-kva.example"])).get() == 1
    assert server.accepted[0].recipients == ["ann@xn--bcher-kva.example"]


def test_thousands_of_recipients(settings: Any) -> None:
    """One message, one hand-over, a delivery for each; ten thousand of them in the tier `all`."""
    many = sized(test=1_000, all=10_000)
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        assert mailing.apply((4, [f"p{n}@example.com" for n in range(many)])).get() == 1
    assert len(server.accepted[0].recipients) == many
    assert len(mailing.entry_for(4, []).deliveries) == many


def test_other_content_under_one_key(caplog: Any) -> None:
    """Warned about by default, refused on demand, compared by what the task names."""

    @app.task(base=IdempotentTask, key_fields=("n",), name="content")
    def content(n: int, text: str) -> str:
        return text

    assert content.apply((1, "a")).get() == "a"
    assert content.apply((1, "b")).get() == "a"
    assert "other content" in caplog.text
    content.on_mismatch = "raise"
    assert isinstance(content.apply((1, "b")).result, PayloadMismatch)
    assert content.apply((1, "a")).get() == "a"
    content.fingerprint_fields = ()
    content.apply((2, "a"))
    assert content.apply((2, "b")).get() == "a"


@pytest.mark.parametrize("on_conflict", ["raise", "skip"])
def test_while_another_task_is_at_it(memory_ledger: Any, on_conflict: str) -> None:
    """``raise`` says how long to wait, ``skip`` succeeds without a result. Eager tasks cannot wait."""

    @app.task(base=IdempotentTask, key_fields=("n",), name=f"conflict-{on_conflict}", on_conflict=on_conflict)
    def busy(n: int) -> str:
        return "ran"

    memory_ledger.claim(Claimant(busy.key_for(1), busy.name, "other"), Policy(opaque=True))
    result = busy.apply((1,))
    if on_conflict == "skip":
        assert result.get() is None
    else:
        assert isinstance(result.result, InProgress)
        assert 0 < result.result.retry_after <= 60


def test_an_opaque_body_tells_failure_from_doubt() -> None:
    """An exception means that nothing happened, unless it is one of in_doubt_for."""

    @app.task(base=IdempotentTask, key_fields=("n",), name="sms", in_doubt_for=(TimeoutError,))
    def sms(n: int, error: str = "") -> str:
        if error:
            raise {"timeout": TimeoutError, "value": ValueError}[error]("no")
        return "ok"

    assert isinstance(sms.apply((1, "value")).result, ValueError)
    assert sms.apply((1,)).get() == "ok"
    assert isinstance(sms.apply((2, "timeout")).result, TimeoutError)
    assert sms.entry_for(2).status is Status.IN_DOUBT
    assert isinstance(sms.apply((2,)).result, DeliveryInDoubt)


def test_a_key_function_gets_the_calls_own_arguments() -> None:
    """As given, without the task itself; what names nothing is refused."""

    @app.task(
        bind=True, base=IdempotentTask, name="keyed", key_function=lambda basket, **more: basket["id"] or None
    )
    def keyed(self: Any, basket: Any, note: str = "") -> None: ...

    assert keyed.key_for({"id": 1}) == keyed.key_for(basket={"id": 1}, note="x") != keyed.key_for({"id": 2})
    with pytest.raises(KeyFieldError, match="keyed: key_function returned None"):
        keyed.key_for({"id": 0})


@pytest.mark.parametrize(
    "error",
    [
        KeyFieldError("x"),
        ArgumentsNotSerializable("x"),
        InProgress("x", 2.5),
        ClaimLost("x", "task"),
        DeliveryInDoubt("x"),
        PayloadMismatch("x"),
        RecipientsDeferred("x"),
        RecipientsRefused("x"),
    ],
)
def test_errors_cross_the_result_backend(error: Exception) -> None:
    """They pickle, Celery's JSON form brings them back as themselves, and they read as their message."""
    assert str(error) == "x"
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.args) == (type(error), error.args)
    again = app.backend.exception_to_python(app.backend.prepare_exception(error, "json"))
    assert (type(again), again.args) == (type(error), error.args)
    assert isinstance(RecipientsDeferred("x"), smtplib.SMTPException)


def test_a_direct_call_is_deduplicated_too() -> None:
    """Under a task id of its own; the body runs once."""
    calls = []

    @app.task(base=IdempotentTask, key_fields=("n",), name="direct", bind=True)
    def direct(self: Any, n: int) -> int:
        calls.append(self.request.id)
        return n

    assert [direct(1), direct(1), direct.apply((1,)).get()] == [1, 1, 1]
    assert len(calls) == 1
    assert calls[0].startswith("direct-")
