"""Amazon SNS, whose signature Anymail does not verify: the secret in the URL decides what is confirmed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.anymail import signing
from tests.anymail.forging import ANYWHERE
from tests.anymail.receipts import ANN, entry
from tests.anymail.sns import amazon_ses, sns
from tests.support.providers import API

CONFIRMED = """<ConfirmSubscriptionResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/">
<ConfirmSubscriptionResult><SubscriptionArn>arn:aws:sns:us-east-1:123456789012:SES_Events:1</SubscriptionArn>
</ConfirmSubscriptionResult></ConfirmSubscriptionResponse>"""


def confirmations(api: API) -> list[str]:
    return [str(sent.body) for sent in api.requests if "ConfirmSubscription" in str(sent.body)]


@pytest.mark.parametrize(("change", "status"), [("no password", 401), ("wrong password", 400)])
def test_a_strangers_topic_is_not_subscribed(
    change: str, status: int, doubtful: Any, told: Any, settings: Any
) -> None:
    """Anybody can have SNS post here; without the secret in the URL nothing is confirmed, or heard."""
    mark = doubtful("amazon_ses")
    before = entry()
    with API((200, "<x/>")) as api:
        settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"]["endpoint_url"] = api.url
        _, body, headers = sns("SubscriptionConfirmation", "You have chosen to subscribe")
        assert told(("amazon_ses", *ANYWHERE[change](body, headers))) == status
        _, body, headers = amazon_ses("delivered", ANN, mark)
        assert told(("amazon_ses", *ANYWHERE[change](body, headers))) == status
    assert api.requests == []
    assert entry() == before


def test_a_subscription_with_the_secret_is_confirmed(doubtful: Any, told: Any, settings: Any) -> None:
    """By Anymail, once; what SNS says of itself is no event."""
    doubtful("amazon_ses")
    before = entry()
    with API((200, CONFIRMED, {"Content-Type": "text/xml"})) as api:
        settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"]["endpoint_url"] = api.url
        assert told(sns("SubscriptionConfirmation", "You have chosen to subscribe")) == 200
        assert told(sns("UnsubscribeConfirmation", "You have chosen to deactivate")) == 200
        validated = "Successfully validated SNS topic for Amazon SES event publishing."
        assert told(sns("Notification", validated)) == 200
    assert len(confirmations(api)) == len(api.requests) == 1
    assert entry() == before


def test_a_subscription_without_any_secret_is_not_confirmed(
    doubtful: Any, told: Any, settings: Any, monkeypatch: Any
) -> None:
    """A project without ``WEBHOOK_SECRET`` is not subscribed to a stranger's topic either."""
    doubtful("amazon_ses")
    monkeypatch.setitem(signing.SETTINGS, "WEBHOOK_SECRET", [])
    with API((200, "<x/>")) as api:
        settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"]["endpoint_url"] = api.url
        with pytest.warns(match="insecure"):
            assert told(sns("SubscriptionConfirmation", "You have chosen to subscribe")) == 400
    assert api.requests == []
