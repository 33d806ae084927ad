"""The hand-over to providers' APIs through Anymail, against a server that drops replies, refuses and lies."""

from __future__ import annotations

import errno
import random
import socket
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
import requests
from anymail.exceptions import AnymailCancelSend, AnymailUnsupportedFeature
from anymail.message import AnymailRecipientStatus
from anymail.signals import post_send, pre_send
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from django.core import mail
from django.core.mail import EmailMultiAlternatives
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, Status
from celery_idempotent.core.errors import DeliveryUnconfirmed, RecipientsDeferred, RecipientsRefused
from celery_idempotent.core.status import DeliveryStatus
from tests.esp.conftest import PROVIDERS
from tests.support.providers import API

app = Celery("esp", broker="memory://", backend="cache+memory://", set_as_current=False)
pytestmark = pytest.mark.filterwarnings("ignore::anymail.exceptions.AnymailNotSupportedWarning")
ANN = "ann@example.com"
HELD = sorted(set(PROVIDERS) - {"resend", "brevo"})
Use = Callable[..., None]


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="confirmation")
def confirm(order: int, to: list[str], **attributes: Any) -> str:
    """Its content differs from run to run."""
    message = EmailMultiAlternatives("Your order", f"Order {order}, {random.random()}", to=to)
    for name, value in attributes.items():
        setattr(message, name, value)
    message.send()
    return f"sent {order}"


def send(*to: str, **attributes: Any) -> Any:
    return confirm.apply((1, list(to or [ANN])), attributes)


def entry() -> Any:
    return confirm.entry_for(1, [])


def statuses() -> list[DeliveryStatus]:
    return [delivery.status for delivery in entry().deliveries]


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_message_is_accepted_and_replayed(name: str, use: Use) -> None:
    """P1, P3: one copy, whose mark names the entry and holds no address."""
    with API() as api:
        use(name, api)
        assert send().get() == "sent 1"
        assert send().get() == "sent 1"
    assert len(api.requests) == 1
    assert entry().status is Status.SENT
    assert entry().deliveries[0].status is DeliveryStatus.ACCEPTED


LOST = ["drop_after_accept", "drop", "garbage", (500, {}), (502, "<html>"), (504, "")]


@pytest.mark.parametrize(
    ("name", "word"),
    # SendGrid's answer has no content that could be garbled.
    [(name, word) for name in HELD for word in LOST if (name, word) != ("sendgrid", "garbage")],
)
def test_without_a_definite_answer_it_is_held(name: str, word: Any, use: Use) -> None:
    """P1: one request, one copy at most, and the entry says that nobody knows."""
    with API(word, "ok") as api:
        use(name, api)
        first, second = send().result, send().result
    for result in (first, second):
        assert isinstance(result, DeliveryInDoubt)
        assert not isinstance(result, DeliveryUnconfirmed)
    assert len(api.requests) == 1
    assert len(api.accepted) == (1 if word == "drop_after_accept" else 0)
    assert entry().status is Status.IN_DOUBT


@pytest.mark.parametrize("name", ["resend", "brevo"])
@pytest.mark.parametrize("word", ["drop_after_accept", "drop", (500, {}), (502, "<html>")])
def test_where_the_provider_recognises_it_a_lost_reply_ends_as_sent(name: str, word: Any, use: Use) -> None:
    """One copy, SENT, nothing of the content left; Brevo says so by an error."""
    with API(word, "ok") as api:
        use(name, api)
        assert send().get() == "sent 1"
    assert len(api.accepted) == 1
    assert len(api.requests) == 2
    assert entry().status is Status.SENT
    assert entry().sealed == entry().provider_key == ""
    assert entry().attempts == 2


def test_brevo_says_accepted_before(use: Use) -> None:
    """Its ``duplicate_parameter`` is an acceptance; the key is a UUID and the content is not kept for it."""
    with API("drop_after_accept", "ok") as api:
        use("brevo", api, ENCRYPTION_KEYS=[])
        assert send().get() == "sent 1"
    assert len(api.accepted) == 1
    assert "accepted before" in entry().deliveries[0].detail
    keys = {request.body["headers"]["idempotencyKey"] for request in api.requests}
    assert len(keys) == 1
    assert len(keys.pop()) == 36


@pytest.mark.parametrize("name", ["idempotencyKey", "IDEMPOTENCYKEY", "Idempotencykey"])
def test_a_projects_own_key_does_not_go_beside_the_ledgers(name: str, use: Use) -> None:
    """P1: one header, of the key that the ledger knows and can offer again."""
    with API("drop_after_accept", "ok") as api:
        use("brevo", api)
        assert send(extra_headers={name: "my own key"}).get() == "sent 1"
    for request in api.requests:
        keys = [(k, v) for k, v in request.body["headers"].items() if k.lower() == "idempotencykey"]
        assert [k for k, _ in keys] == ["idempotencyKey"]
        assert keys[0][1] != "my own key"
    assert len(api.accepted) == 1


def test_resend_is_sent_the_same_bytes(use: Use) -> None:
    """The body renders other content each time; what goes out under one key does not differ."""
    with API("drop_after_accept", "drop_after_accept", "ok") as api:
        use("resend", api)
        assert send().get() == "sent 1"
    assert len({request.headers["idempotency-key"] for request in api.requests}) == 1
    assert api.requests[0].body == api.requests[1].body == api.requests[2].body


def test_the_task_that_comes_back_sends_the_same_bytes(use: Use) -> None:
    """Another run, and another process as well, has only what is sealed."""
    with API("drop_after_accept") as api:
        use("resend", api)
        assert isinstance(send().result, DeliveryUnconfirmed)
        assert entry().status is Status.IN_DOUBT
        assert ANN not in repr(entry())
        api.script = ["ok"]
        assert send().get() == "sent 1"
    assert len(api.accepted) == 1
    assert all(request.body == api.requests[0].body for request in api.requests)


def test_resend_without_encryption_keys_is_held(use: Use) -> None:
    """No key goes out that nobody relies on."""
    with API("drop_after_accept", "ok") as api:
        use("resend", api, ENCRYPTION_KEYS=[])
        result = send().result
    assert isinstance(result, DeliveryInDoubt)
    assert not isinstance(result, DeliveryUnconfirmed)
    assert len(api.requests) == 1
    assert "idempotency-key" not in api.requests[0].headers


def test_other_content_under_a_known_key_is_not_tried_again(use: Use, memory_ledger: Any) -> None:
    """A ledger that was set back makes the key that the provider knows: one copy, and somebody has to look."""
    with API("drop_after_accept") as api:
        use("resend", api)
        send()
        memory_ledger.store._entries.clear()
        api.script = ["ok"]
        before = len(api.requests)
        result = send().result
    assert isinstance(result, DeliveryInDoubt)
    assert not isinstance(result, DeliveryUnconfirmed)
    assert len(api.requests) == before + 1
    assert len(api.accepted) == 1
    assert statuses() == [DeliveryStatus.IN_DOUBT]
    assert "other content" in entry().deliveries[0].detail


def test_an_earlier_offer_that_is_still_being_worked_on(use: Use) -> None:
    """Resend's 409 for concurrent requests is a doubt; it passes."""
    busy = (409, {"statusCode": 409, "name": "concurrent_idempotent_requests", "message": "in progress"})
    with API("drop_after_accept", busy, "ok") as api:
        use("resend", api)
        assert send().get() == "sent 1"
    assert len(api.accepted) == 1
    assert len(api.requests) == 3


def test_a_first_offer_that_another_one_is_ahead_of(use: Use) -> None:
    """P1: the ledger was set back, and the provider knows better; under a new key there would be two."""
    busy = (409, {"statusCode": 409, "name": "concurrent_idempotent_requests", "message": "in progress"})
    with API(busy, "ok") as api:
        use("resend", api)
        assert send().get() == "sent 1"
    assert len({request.headers["idempotency-key"] for request in api.requests}) == 1
    assert len(api.accepted) == 1


def test_after_the_providers_time_it_is_held(use: Use, memory_ledger: Any, monkeypatch: Any) -> None:
    """No request goes out any more, and what was kept for one is gone."""
    with API("drop_after_accept") as api:
        use("resend", api)
        send()
        assert entry().sealed
        now = memory_ledger.store._clock
        monkeypatch.setattr(memory_ledger.store, "_clock", lambda: now() + timedelta(hours=24))
        before = len(api.requests)
        result = send().result
    assert isinstance(result, DeliveryInDoubt)
    assert not isinstance(result, DeliveryUnconfirmed)
    assert len(api.requests) == before
    assert (entry().status, entry().sealed, entry().provider_key) == (Status.IN_DOUBT, "", "")


def test_another_account_is_not_offered_it(use: Use, settings: Any) -> None:
    """P1: keys are the account's."""
    with API("drop_after_accept") as api:
        use("resend", api)
        send()
        settings.ANYMAIL = {**settings.ANYMAIL, "RESEND_API_KEY": "another"}
        before = len(api.requests)
        assert isinstance(send().result, DeliveryInDoubt)
    assert len(api.requests) == before


DEFERRED = [401, 402, 403, 404, 408, 409, 421, 425, 429, 451, 501, 505]
REFUSED = [400, 413, 414, 415, 422]
UNKNOWN = [500, 502, 503, 504, 507, 520, 302, 304]


@pytest.mark.parametrize("status", DEFERRED)
def test_an_answer_that_says_not_now(status: int, use: Use) -> None:
    """P2: nothing was taken, and another try may be."""
    with API((status, {"message": f"no, not {ANN}"}), "ok") as api:
        use("mailgun", api)
        assert isinstance(send().result, RecipientsDeferred)
        assert ANN not in entry().deliveries[0].detail
        assert send().get() == "sent 1"
    assert len(api.accepted) == 1


@pytest.mark.parametrize("status", REFUSED)
def test_an_answer_that_says_never(status: int, use: Use) -> None:
    """The same message would be refused again, so it is not offered again."""
    with API((status, {"message": "no"}), "ok") as api:
        use("mailgun", api)
        assert isinstance(send().result, RecipientsRefused)
        assert isinstance(send().result, RecipientsRefused)
    assert len(api.requests) == 1
    assert entry().deliveries[0].code == status


@pytest.mark.parametrize("status", UNKNOWN)
def test_an_answer_that_says_nothing(status: int, use: Use) -> None:
    """P1: a gateway's error may come after the provider took the mail."""
    with API((status, "")) as api:
        use("mailgun", api)
        assert isinstance(send().result, DeliveryInDoubt)
    assert len(api.requests) == 1


def test_a_provider_that_says_when_to_come_back_took_nothing(use: Use) -> None:
    """503 with Retry-After is the service's own word; how long it asks for is handed on to the retry."""
    with API((503, "", {"Retry-After": "17"}), (429, "", {"Retry-After": "19"})) as api:
        use("mailgun", api)
        errors = [send().result, send().result]
    assert all(isinstance(error, RecipientsDeferred) for error in errors)
    assert [error.retry_after for error in errors] == [17.0, 19.0]


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "Thu, 01 Jan 2026 12:02:00 GMT", "Date": "Thu, 01 Jan 2026 12:00:30 GMT"}, 90.0),
        ({"Retry-After": "Thu, 01 Jan 2026 12:02:00 -0000", "Date": "Thu, 01 Jan 2026 12:00:30 GMT"}, 90.0),
        ({"retry-after": "45"}, 45.0),
        ({"Retry-After": "Thu, 01 Jan 2026 12:02:00 GMT", "Date": "Thu, 01 Jan 2026 13:00:00 GMT"}, 1.0),
        ({"Retry-After": "Fri, 01 Jan 9999 00:00:00 GMT"}, 3600.0),
        ({"Retry-After": "9" * 40}, 3600.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Thu, 99 Jan 2026 12:02:00 GMT"}, None),
        ({"Retry-After": "Thu, 01 Jan 2026 12:02:00 +99999999999999999999"}, None),
    ],
)
@pytest.mark.parametrize("name", ["mailgun", "amazon_ses"])
def test_when_to_come_back_may_be_a_date(headers: Any, wait: float | None, name: str, use: Use) -> None:
    """RFC 9110 §10.2.3, by the provider's own clock where it tells it; nonsense asks for nothing."""
    with API((429, "", headers)) as api:
        use(name, api)
        error = send().result
    assert isinstance(error, RecipientsDeferred)
    assert error.retry_after == wait


def test_a_date_counts_from_now_where_the_provider_tells_no_time(use: Use, monkeypatch: Any) -> None:
    """Within the patience of this test."""
    until = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=1000), usegmt=True)
    with API((429, "", {"Retry-After": until, "Date": "yesterday"})) as api:
        use("mailgun", api)
        error = send().result
    assert 500 < error.retry_after <= 1000


def test_nobody_there_is_definite(use: Use) -> None:
    """Refused, or without a name: no request was made."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/", "http://nowhere.invalid/"):
        use("mailgun", url)
        assert isinstance(send().result, RecipientsDeferred)
        assert "not sent" in entry().deliveries[0].detail
    use("amazon_ses", f"http://127.0.0.1:{port}/")
    assert isinstance(send().result, RecipientsDeferred)


def test_no_way_there_and_no_credentials_are_definite(use: Use, settings: Any, monkeypatch: Any) -> None:
    """Neither gets as far as a request."""

    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    use("mailgun", "http://192.0.2.1/")
    with monkeypatch.context() as patch:
        patch.setattr("urllib3.util.connection.create_connection", unreachable)
        assert isinstance(send().result, RecipientsDeferred)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with API() as api:
        use("amazon_ses", api)
        params = settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"]
        settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"] = {
            name: value for name, value in params.items() if not name.startswith("aws_")
        }
        assert isinstance(send().result, RecipientsDeferred)
    assert api.requests == []


@pytest.mark.parametrize("name", ["mailgun", "amazon_ses"])
def test_an_answer_that_does_not_come_in_time_is_doubt(name: str, use: Use, settings: Any) -> None:
    """The client's patience ends; what the server makes of the request, nobody knows."""
    with API("slow") as api:
        use(name, api)
        settings.ANYMAIL["REQUESTS_TIMEOUT"] = 0.3
        if name == "amazon_ses":
            settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"]["config"]["read_timeout"] = 0.3
        assert isinstance(send().result, DeliveryInDoubt)
    assert len(api.accepted) == 1


@pytest.mark.parametrize("own", [30, (3, 30), (None, None), None])
@pytest.mark.parametrize("name", ["mailgun", "amazon_ses"])
def test_the_send_timeout_is_the_clients_as_well(
    name: str, own: Any, use: Use, settings: Any, monkeypatch: Any
) -> None:
    """Clients wait 30 seconds, or for ever; nobody else may act on the deadline before they give up."""
    monkeypatch.setattr(confirm, "send_timeout", 0.5)
    with API("slow") as api:
        use(name, api)
        settings.ANYMAIL["REQUESTS_TIMEOUT"] = own
        began = time.monotonic()
        assert isinstance(send().result, DeliveryInDoubt)
    assert time.monotonic() - began < 4


def test_most_of_the_send_timeout_is_left_after_connecting(use: Use, monkeypatch: Any) -> None:
    """P1: a connection that comes late carries no request after the deadline, when others may send."""
    given: list[Any] = []
    monkeypatch.setattr(confirm, "send_timeout", 8)
    with API() as api:
        use("mailgun", api)
        made = requests.Session.request
        monkeypatch.setattr(
            requests.Session, "request", lambda *a, **k: given.append(k["timeout"]) or made(*a, **k)
        )
        assert send().get() == "sent 1"
    assert given == [(2.0, 8)]


def test_an_interrupted_request_is_doubt(use: Use, monkeypatch: Any) -> None:
    """A soft time limit strikes while the answer is awaited: it goes on its way, and the doubt is on record."""
    from anymail.backends.mailgun import EmailBackend

    post = EmailBackend.post_to_esp

    def struck(self: Any, *args: Any) -> Any:
        post(self, *args)
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(EmailBackend, "post_to_esp", struck)
    with API() as api:
        use("mailgun", api)
        assert isinstance(send().result, SoftTimeLimitExceeded)
    assert len(api.accepted) == 1
    assert statuses() == [DeliveryStatus.IN_DOUBT]
    assert entry().status is Status.IN_DOUBT


class Retrying:
    """A session of the project's own, that sends again by itself."""

    @staticmethod
    def session(backend: Any) -> Any:
        from anymail.backends.base_requests import AnymailRequestsBackend

        session = AnymailRequestsBackend.create_session(backend)
        policy = Retry(total=1, allowed_methods=None, status_forcelist=[502], backoff_factor=0)
        session.mount("http://", HTTPAdapter(max_retries=policy))
        return session


def vanishing(api: API, monkeypatch: Any) -> None:
    """Have ``api`` be gone as soon as it has taken a message."""
    take = api.take

    def take_and_go(sent: Any) -> Any:
        answer = take(sent)
        api.socket.shutdown(socket.SHUT_RDWR)  # right now; a close would wait for whoever polls it
        return answer

    monkeypatch.setattr(api, "take", take_and_go)


@pytest.mark.parametrize("last", [(422, {"message": "no"}), "gone"], ids=["a refusal", "no connection"])
def test_of_a_client_that_retries_nothing_is_definite(use: Use, monkeypatch: Any, last: Any) -> None:
    """P1: its last try says nothing about the one before it, which may have been taken."""
    from anymail.backends.mailgun import EmailBackend

    monkeypatch.setattr(EmailBackend, "create_session", Retrying.session)
    with API("drop_after_accept", last) as api:
        use("mailgun", api)
        if last == "gone":
            vanishing(api, monkeypatch)
        assert isinstance(send().result, DeliveryInDoubt)
    assert ("NewConnectionError" in entry().deliveries[0].detail) is (last == "gone")
    assert len(api.accepted) == 1


def test_of_a_client_that_retries_broken_tls_nothing_is_definite(use: Use, monkeypatch: Any, tls: Any) -> None:
    """P1: ``HTTPAdapter(max_retries=2)`` makes a POST again too; that nobody is there any more says nothing."""
    from anymail.backends.base_requests import AnymailRequestsBackend
    from anymail.backends.mailgun import EmailBackend

    def create(self: Any) -> Any:
        session = AnymailRequestsBackend.create_session(self)
        session.mount("https://", HTTPAdapter(max_retries=2))
        return session

    monkeypatch.setattr(EmailBackend, "create_session", create)
    with API("broken_tls", tls=tls) as api:
        use("mailgun", api)
        vanishing(api, monkeypatch)
        assert isinstance(send().result, DeliveryInDoubt)
        assert "NewConnectionError" in entry().deliveries[0].detail, "the last try was one that found nobody"
        assert isinstance(send().result, DeliveryInDoubt)
    assert len(api.accepted) == 1


POSTMARK_PARTLY = (
    200,
    {
        "ErrorCode": 0,
        "Message": "Message OK, but will not deliver to these inactive addresses: bob@example.com. "
        "Inactive recipients are ones that have generated a hard bounce or a spam complaint.",
        "MessageID": "id-9",
        "To": "ann@example.com, bob@example.com",
    },
)
POSTMARK_INVALID = (422, {"ErrorCode": 300, "Message": "Invalid 'To' address: 'bob@example.com'."})


def test_a_providers_word_on_each_recipient_fills_the_deliveries(use: Use) -> None:
    """Postmark took it for Ann alone; Bob is refused for good."""
    with API(POSTMARK_PARTLY) as api:
        use("postmark", api)
        assert isinstance(send(ANN, "bob@example.com").result, RecipientsRefused)
    assert statuses() == [DeliveryStatus.ACCEPTED, DeliveryStatus.REFUSED]
    assert entry().deliveries[0].detail == "sent id-9"


def test_an_answer_that_took_nothing_is_no_acceptance_for_the_others(use: Use) -> None:
    """P2: Postmark sends to nobody when one address is invalid; a retry offers it to the others alone."""
    with API(POSTMARK_INVALID, "ok") as api:
        use("postmark", api)
        assert isinstance(send(ANN, "bob@example.com").result, RecipientsDeferred)
        assert statuses() == [DeliveryStatus.DEFERRED, DeliveryStatus.REFUSED]
        assert isinstance(send(ANN, "bob@example.com").result, RecipientsRefused)
    assert [sent.body["To"] for sent in api.accepted] == [ANN]


def test_whoever_is_left_in_cc_is_offered_it_in_to(use: Use) -> None:
    """P2: Bob in To is invalid, Ann in Cc is not, and Postmark takes no message to nobody."""
    with API(POSTMARK_INVALID, "ok") as api:
        use("postmark", api)
        assert isinstance(send("bob@example.com", cc=[ANN]).result, RecipientsDeferred)
        assert isinstance(send("bob@example.com", cc=[ANN]).result, RecipientsRefused)
    assert statuses() == [DeliveryStatus.REFUSED, DeliveryStatus.ACCEPTED]
    assert [sent.body["To"] for sent in api.accepted] == [ANN]
    assert not api.accepted[0].body.get("Cc")


RECIPIENTS = {"sent": "ACCEPTED", "queued": "ACCEPTED", "invalid": "REFUSED", "rejected": "REFUSED"} | {
    "failed": "DEFERRED", "unknown": "IN_DOUBT",
}  # fmt: skip


@pytest.mark.parametrize(("said", "meaning"), RECIPIENTS.items())
def test_each_status_of_anymail(said: str, meaning: str, use: Use) -> None:
    """The table in docs/how-to/anymail.md, by Anymail's own test backend."""
    use("test", "")
    status = {ANN: AnymailRecipientStatus("id", said)}
    send(anymail_test_response={"recipient_status": status})
    assert statuses() == [DeliveryStatus[meaning]]


def test_the_mark_and_the_projects_own_metadata(use: Use) -> None:
    """Both go out, and the message that the project keeps is as it was."""
    use("test", "")
    mail.outbox = []
    send(metadata={"order": 7})
    metadata = mail.outbox[0].anymail_test_params["metadata"]
    assert metadata["order"] == 7
    assert metadata["idem_key"] == entry().key
    assert all(len(name) <= 20 and len(value) <= 80 for name, value in metadata.items() if name != "order")
    assert ANN not in str(metadata)
    assert mail.outbox[0].metadata == {"order": 7}


def test_a_provider_without_metadata_still_sends(use: Use, monkeypatch: Any) -> None:
    """Postal has none: webhooks cannot tell about its messages, and they go out."""
    from anymail.backends.test import TestPayload

    def none(self: Any, metadata: Any) -> None:
        self.unsupported_feature("metadata")

    monkeypatch.setattr(TestPayload, "set_metadata", none)
    use("test", "")
    assert send().get() == "sent 1"
    own = confirm.apply((2, [ANN]), {"metadata": {"order": 7}}).result
    assert isinstance(own, AnymailUnsupportedFeature), "the project's own metadata is not dropped silently"


def test_what_fails_before_the_request_is_not_written(use: Use) -> None:
    """Anymail's complaints about a message are the developer's: raised, and the key is free."""
    with API() as api:
        use("resend", api)
        error = send(template_id="welcome").result
        assert isinstance(error, AnymailUnsupportedFeature)
        assert entry().attempts == 0
        assert send().get() == "sent 1"
    assert len(api.requests) == 1


@pytest.fixture
def receiver() -> Any:
    """Connect a receiver to one of Anymail's signals for the length of a test."""
    connected = []

    def connect(signal: Any, function: Any) -> None:
        signal.connect(function)
        connected.append((signal, function))

    yield connect
    for signal, function in connected:
        signal.disconnect(function)


def test_a_receiver_that_raises_after_the_acceptance_changes_nothing(use: Use, receiver: Any) -> None:
    """django-anymail raises it as if the send had failed; the mail has been taken."""
    seen = []

    def failing(sender: Any, **_: Any) -> None:
        seen.extend(statuses())
        raise ValueError("a receiver's own")

    receiver(post_send, failing)
    with API() as api:
        use("mailgun", api)
        assert send().get() == "sent 1"
    assert len(api.accepted) == 1
    assert entry().status is Status.SENT
    assert seen == [DeliveryStatus.ACCEPTED], "on record before anybody else is told"


def test_a_receiver_that_cancels(use: Use, receiver: Any) -> None:
    """The project itself refuses: visible, and never offered."""

    def cancelling(sender: Any, **_: Any) -> None:
        raise AnymailCancelSend("not to them")

    receiver(pre_send, cancelling)
    with API() as api:
        use("mailgun", api)
        assert isinstance(send().result, RecipientsRefused)
    assert api.requests == []
    assert "pre_send" in entry().deliveries[0].detail


def test_a_receiver_that_takes_a_recipient_off(use: Use, receiver: Any) -> None:
    """A suppression list of the project's: Bob is refused, Ann served."""

    def suppressing(sender: Any, message: Any, **_: Any) -> None:
        message.to = [address for address in message.to if "bob" not in address]

    receiver(pre_send, suppressing)
    with API() as api:
        use("postmark", api)
        assert isinstance(send(ANN, "bob@example.com").result, RecipientsRefused)
    assert statuses() == [DeliveryStatus.REFUSED, DeliveryStatus.ACCEPTED]
    assert [sent.body["To"] for sent in api.accepted] == [ANN]


def test_a_receiver_that_redirects(use: Use, receiver: Any) -> None:
    """A staging system's: the mail has gone out for those it was meant for, once."""

    def redirecting(sender: Any, message: Any, **_: Any) -> None:
        message.to = ["dev@example.com"]

    receiver(pre_send, redirecting)
    with API() as api:
        use("postmark", api)
        assert send().get() == "sent 1"
        assert send().get() == "sent 1"
    assert [sent.body["To"] for sent in api.accepted] == ["dev@example.com"]


def test_a_backend_that_sends_in_its_own_way_is_one_step(use: Use, settings: Any) -> None:
    """Its steps are not known, so that whatever it raises is a doubt."""
    use("test", "", EMAIL_BACKEND=f"{__name__}.OwnWay")
    assert isinstance(send().result, DeliveryInDoubt)


from anymail.backends.test import EmailBackend as AnymailTest  # noqa: E402


class OwnWay(AnymailTest):
    """Overrides what Anymail says nobody should."""

    def _send(self, message: Any) -> bool:
        raise ValueError("its own")
