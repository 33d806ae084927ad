"""The hand-over through Anymail's own test backend: what it is given, and what its answers come to."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import requests
from anymail.backends.test import EmailBackend as AnymailTest
from anymail.exceptions import AnymailAPIError, AnymailRecipientsRefused, AnymailRequestsAPIError
from anymail.message import AnymailRecipientStatus
from anymail.signals import post_send
from celery import Celery
from django.core import mail
from django.core.mail import EmailMultiAlternatives

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, Status
from celery_idempotent.contrib.anymail import marks
from celery_idempotent.core.errors import RecipientsDeferred, RecipientsRefused
from celery_idempotent.core.status import DeliveryStatus

app = Celery("anymail-test", broker="memory://", backend="cache+memory://", set_as_current=False)
ANN, BOB, CAT = PEOPLE = ["ann@example.com", "bob@example.com", "cat@example.com"]
ACCEPTED, DEFERRED, REFUSED, IN_DOUBT = (
    DeliveryStatus.ACCEPTED,
    DeliveryStatus.DEFERRED,
    DeliveryStatus.REFUSED,
    DeliveryStatus.IN_DOUBT,
)
SAID = {
    "sent": ACCEPTED,
    "queued": ACCEPTED,
    "invalid": REFUSED,
    "rejected": REFUSED,
    "failed": DEFERRED,
    "unknown": IN_DOUBT,
}
Use = Callable[..., None]


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="anymail-test")
def confirm(order: int, to: list[str], **attributes: Any) -> str:
    message = EmailMultiAlternatives("Your order", f"Order {order}", to=to)
    for name, value in attributes.items():
        setattr(message, name, value)
    message.send()
    return "sent"


def send(*to: str, **attributes: Any) -> Any:
    return confirm.apply((1, list(to)), attributes).result


def answer(**said: str) -> Any:
    """Return what Anymail's test backend is to say, by the name before the @ of each address."""
    return {
        "recipient_status": {
            f"{name}@example.com": AnymailRecipientStatus(f"id-{name}", status) for name, status in said.items()
        }
    }


def entry() -> Any:
    return confirm.entry_for(1, [])


def statuses() -> list[DeliveryStatus]:
    return [delivery.status for delivery in entry().deliveries]


def offered() -> list[list[str]]:
    """Return whom each message was for that the backend was given."""
    return [message.recipients() for message in mail.outbox]


@pytest.fixture(autouse=True)
def backend(use: Use) -> None:
    """Anymail's test backend, wrapped by ours, with nothing in its outbox."""
    use("test", "")
    mail.outbox = []


# -- what it says of each recipient ----------------------------------------------------------------------


def expected(found: set[DeliveryStatus]) -> Any:
    """Return what a run ends with that leaves recipients in these states."""
    if IN_DOUBT in found:
        return DeliveryInDoubt
    if DEFERRED in found:
        return RecipientsDeferred
    return RecipientsRefused if REFUSED in found else str


MIXES = list(itertools.product(SAID, repeat=2)) + list(
    itertools.combinations(["sent", "rejected", "failed", "unknown"], 3)
)


@pytest.mark.parametrize("mix", MIXES, ids="-".join)
def test_each_recipient_is_settled_by_what_was_said_of_it(mix: tuple[str, ...]) -> None:
    """Who is accepted or refused is done; who has failed is offered it again, alone; nobody else ever."""
    people = PEOPLE[: len(mix)]
    names = [address.partition("@")[0] for address in people]
    found = [SAID[said] for said in mix]
    said = answer(**dict(zip(names, mix, strict=True)))
    assert isinstance(send(*people, anymail_test_response=said), expected(set(found)))
    assert statuses() == found
    assert [delivery.detail for delivery in entry().deliveries] == [
        f"{word} id-{name}" for word, name in zip(mix, names, strict=True)
    ]
    again = (
        []
        if IN_DOUBT in found
        else [who for who, status in zip(people, found, strict=True) if status is DEFERRED]
    )
    after = [ACCEPTED if who in again else status for who, status in zip(people, found, strict=True)]
    assert isinstance(send(*people), expected(set(after)))
    assert offered() == [people] + ([again] if again else [])
    assert statuses() == after
    ends = {DeliveryInDoubt: Status.IN_DOUBT, RecipientsRefused: Status.FAILED, str: Status.SENT}
    assert entry().status is ends[expected(set(after))]


def test_whoever_the_provider_does_not_mention_shares_what_all_others_got() -> None:
    """One word for all mentioned is a word about the request; two are not."""
    assert send(*PEOPLE, anymail_test_response=answer(ann="sent", bob="queued")) == "sent"
    assert statuses() == [ACCEPTED] * 3
    result = confirm.apply((2, PEOPLE), {"anymail_test_response": answer(ann="sent", bob="rejected")}).result
    assert isinstance(result, DeliveryInDoubt)
    found = confirm.entry_for(2, []).deliveries
    assert [delivery.status for delivery in found] == [ACCEPTED, REFUSED, IN_DOUBT]


def test_an_answer_that_cannot_be_parsed_is_doubt() -> None:
    """Anymail's own "Unparsable test response": it was sent, and nobody knows what of it."""
    assert isinstance(send(ANN, anymail_test_response={"other": 1}), DeliveryInDoubt)
    assert isinstance(send(ANN), DeliveryInDoubt)
    assert offered() == [[ANN]]


# -- what it raises --------------------------------------------------------------------------------------


def response(code: int, **headers: str) -> requests.Response:
    """Return an answer as requests has it."""
    made = requests.Response()
    made.status_code = code
    made.headers.update(headers)
    made._content = b'{"message": "about ann@example.com"}'
    return made


NEVER, LATER_5XX = {400, 413, 414, 415, 422}, {501, 505}


def meaning(code: int) -> DeliveryStatus:
    """Return what the page docs/how-to/anymail.md says of an HTTP status that is an error."""
    if code in NEVER:
        return REFUSED
    return DEFERRED if 400 <= code < 500 or code in LATER_5XX else IN_DOUBT


@pytest.mark.parametrize("code", [*range(300, 309), *range(400, 432), 451, *range(500, 512), 520, 524, 599])
def test_each_http_status_of_a_requests_error(code: int) -> None:
    """Refused is never offered again, not taken is, and what may have been taken is held."""
    error = AnymailRequestsAPIError("no", response=response(code))
    results = {REFUSED: RecipientsRefused, DEFERRED: RecipientsDeferred, IN_DOUBT: DeliveryInDoubt}
    assert isinstance(send(ANN, BOB, anymail_test_response=error), results[meaning(code)])
    assert statuses() == [meaning(code)] * 2
    assert [delivery.code for delivery in entry().deliveries] == [code] * 2
    assert ANN not in entry().deliveries[0].detail
    second = send(ANN, BOB)
    if meaning(code) is DEFERRED:
        assert second == "sent"
        assert offered() == [[ANN, BOB]] * 2
    else:
        assert isinstance(second, results[meaning(code)])
        assert offered() == [[ANN, BOB]]


@pytest.mark.parametrize(("code", "seconds"), [(429, 30.0), (503, 120.0)])
def test_how_long_a_provider_wants_a_retry_to_wait(code: int, seconds: float) -> None:
    """Retry-After goes to the retry; with it, a 503 is the service's own word."""
    later = {"Retry-After": f"{seconds:.0f}"}
    error = AnymailRequestsAPIError("no", response=response(code, **later))
    result = send(ANN, anymail_test_response=error)
    assert isinstance(result, RecipientsDeferred)
    assert result.retry_after == seconds


def caused(error: AnymailAPIError, cause: BaseException) -> AnymailAPIError:
    error.__cause__ = cause
    return error


WITHOUT_ANSWER = [
    (AnymailAPIError("something went wrong"), IN_DOUBT),
    (AnymailRequestsAPIError("no answer", response=None), IN_DOUBT),
    (caused(AnymailAPIError("x"), requests.ReadTimeout("timed out")), IN_DOUBT),
    (caused(AnymailAPIError("x"), requests.exceptions.ChunkedEncodingError("broken")), IN_DOUBT),
    (caused(AnymailAPIError("x"), ConnectionResetError(104, "reset")), IN_DOUBT),
    (caused(AnymailAPIError("x"), BrokenPipeError(32, "broken")), IN_DOUBT),
    (caused(AnymailAPIError("x"), ConnectionRefusedError(111, "refused")), DEFERRED),
    (caused(AnymailAPIError("x"), requests.ConnectTimeout("timed out")), DEFERRED),
]


@pytest.mark.parametrize(("error", "found"), WITHOUT_ANSWER)
def test_an_api_error_without_an_answer(error: AnymailAPIError, found: DeliveryStatus) -> None:
    """P1: only what failed before the request was made is definite."""
    result = send(ANN, anymail_test_response=error)
    assert isinstance(result, RecipientsDeferred if found is DEFERRED else DeliveryInDoubt)
    assert statuses() == [found]
    assert (send(ANN) == "sent") is (found is DEFERRED)


class Refusing(AnymailTest):
    """A project's own, that raises what Anymail has for "nobody was served" itself."""

    def post_to_esp(self, payload: Any, message: Any) -> Any:
        super().post_to_esp(payload, message)
        raise AnymailRecipientsRefused(email_message=message, payload=payload)


def test_all_recipients_refused_is_said_by_an_error(settings: Any) -> None:
    """AnymailRecipientsRefused is an answer: the recipients are refused for good, and not offered it again."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": f"{__name__}.Refusing"}
    for _ in range(2):
        assert isinstance(send(ANN, BOB), RecipientsRefused)
    assert offered() == [[ANN, BOB]]
    assert statuses() == [REFUSED] * 2
    assert entry().status is Status.FAILED


# -- what it is given ------------------------------------------------------------------------------------


def params(place: int = -1) -> Any:
    return mail.outbox[place].anymail_test_params


def test_the_mark_names_the_hand_over_and_is_new_each_time() -> None:
    """A webhook tells which of two requests it is about: key, generation, attempt and message are signed."""
    send(ANN, anymail_test_response=answer(ann="failed"))
    send(ANN)
    found = [marks.read(params(place)["metadata"]) for place in (0, 1)]
    assert [(mark.key, mark.generation, mark.attempt, mark.whole) for mark in found if mark] == [
        (entry().key, 1, 1, True),
        (entry().key, 1, 2, True),
    ]
    assert len({mark.message for mark in found if mark}) == 1


@pytest.mark.parametrize("batch", ["merge_data", "merge_metadata", "merge_headers"])
def test_a_batch_is_marked_as_one(batch: str) -> None:
    """A message for each recipient: an event about one proves nothing about the others."""
    assert send(ANN, BOB, **{batch: {}}) == "sent"
    assert params()["is_batch_send"]
    mark = marks.read(params()["metadata"])
    assert mark is not None
    assert not mark.whole


def test_message_id_and_date_stay_the_same() -> None:
    """Of one email: what is offered again can be recognised."""
    send(ANN, anymail_test_response=answer(ann="failed"))
    send(ANN)
    first, second = (params(place)["extra_headers"] for place in (0, 1))
    assert first["Message-ID"] == second["Message-ID"] == entry().deliveries[0].message_id
    assert first["Date"] == second["Date"]


def test_everything_that_the_project_asked_for_goes_along() -> None:
    """Tags, tracking, templates and the provider's own options; and the message is as it was afterwards."""
    asked = {
        "tags": ["orders"],
        "track_opens": True,
        "template_id": "welcome",
        "merge_global_data": {"name": "Ann"},
        "esp_extra": {"ip_pool": "slow"},
        "envelope_sender": "bounces@example.com",
        "metadata": {"order": 7},
        "extra_headers": {"X-Shop": "1"},
    }
    assert send(ANN, **asked) == "sent"
    got = params()
    assert {name: got[name] for name in ("tags", "track_opens", "template_id", "merge_global_data")} == {
        name: asked[name] for name in ("tags", "track_opens", "template_id", "merge_global_data")
    }
    assert (got["ip_pool"], got["envelope_sender"]) == ("slow", "bounces@example.com")
    assert got["metadata"]["order"] == 7
    assert got["extra_headers"]["X-Shop"] == "1"
    assert mail.outbox[0].metadata == {"order": 7}
    assert mail.outbox[0].extra_headers == {"X-Shop": "1"}


FIELDS = {"to": ANN, "cc": BOB, "bcc": CAT}


@pytest.mark.parametrize("served", ["to", "cc", "bcc"])
def test_a_retry_is_for_the_others_alone(served: str) -> None:
    """Whoever was served is in no field any more, and Bcc stays hidden."""
    said = {name.partition("@")[0]: "sent" if field == served else "failed" for field, name in FIELDS.items()}
    more = {"cc": [BOB], "bcc": [CAT]}
    assert isinstance(send(ANN, **more, anymail_test_response=answer(**said)), RecipientsDeferred)
    assert send(ANN, **more) == "sent"
    given = [{name: [str(one) for one in params(place).get(name, [])] for name in FIELDS} for place in (0, 1)]
    again = {field: [] if field == served else [name] for field, name in FIELDS.items()}
    if served == "to":
        again = {"to": [BOB], "cc": [], "bcc": [CAT]}  # no provider takes a message to nobody
    assert given == [{field: [name] for field, name in FIELDS.items()}, again]


def test_a_message_that_the_project_addressed_so_stays_so() -> None:
    """Cc alone is the project's own choice, and goes out as it is."""
    assert send(cc=[BOB]) == "sent"
    assert [str(one) for one in params()["cc"]] == [BOB]
    assert (mail.outbox[0].to, mail.outbox[0].cc) == ([], [BOB])


def test_outside_a_task_it_passes_as_it_is() -> None:
    """No mark, no stamp, no entry: such mail is none of the ledger's business, and errors are Anymail's own."""
    assert EmailMultiAlternatives("Hi", "text", to=[ANN]).send() == 1
    assert "metadata" not in params()
    assert "Message-ID" not in params().get("extra_headers", {})
    for silently in (False, True):
        message = EmailMultiAlternatives("Hi", "text", to=[ANN])
        message.anymail_test_response = answer(ann="rejected")  # type: ignore[attr-defined]
        if silently:
            assert message.send(fail_silently=True) == 0
        else:
            with pytest.raises(AnymailRecipientsRefused):
                message.send()


def test_a_post_send_receiver_gets_what_anymail_gives_it() -> None:
    """Status, provider and message, for projects that listen themselves, once for each request."""
    heard = []

    def receiver(sender: Any, message: Any, status: Any, esp_name: str, **_: Any) -> None:
        heard.append((esp_name, dict(status.recipients), message.recipients(), statuses()))

    post_send.connect(receiver)
    try:
        send(ANN, BOB, anymail_test_response=answer(ann="sent", bob="rejected"))
        send(ANN, BOB)
    finally:
        post_send.disconnect(receiver)
    ((name, status, to, on_record),) = heard
    assert name == "Test"
    assert {address: one.status for address, one in status.items()} == {ANN: "sent", BOB: "rejected"}
    assert to == [ANN, BOB]
    assert on_record == [ACCEPTED, REFUSED]


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="anymail-templates")
def templates(order: int, attribute: str) -> str:
    """Two messages whose subject and text are the provider's, and that differ in one attribute alone."""
    mixed, all_well = answer(ann="sent", bob="invalid"), answer(ann="sent", bob="sent")
    for value, said in (("first", mixed), ("second", all_well)):
        message = EmailMultiAlternatives(to=[ANN, BOB])
        more = value if attribute == "template_id" else {ANN: {"X-Word": value}}
        for name, given in (("template_id", "a"), (attribute, more), ("anymail_test_response", said)):
            setattr(message, name, given)
        with suppress(RecipientsRefused):
            message.send()
    return "sent"


@pytest.mark.parametrize("attribute", ["template_id", "merge_global_data", "merge_data"])
def test_messages_that_differ_in_their_template_are_two(attribute: str) -> None:
    """P2: the second one is not taken for the first, which not everybody got."""
    assert templates.apply((1, attribute)).result == "sent"
    assert offered() == [[ANN, BOB]] * 2
