"""What is raised about recipients who have not been served: one error, which says who and why."""

from __future__ import annotations

from collections.abc import Sequence
from smtplib import SMTPServerDisconnected

from ..exceptions import DeliveryInDoubt, DeliveryUnconfirmed, RecipientsDeferred, RecipientsRefused
from ..execution.run import Run
from ..ledger.addresses import mask_all
from ..ledger.entry import Delivery
from ..ledger.outcomes import Target
from ..ledger.status import DeliveryStatus


def raise_unsettled(run: Run, targets: Sequence[Target], wait: float | None, final: bool) -> None:
    """Raise `DeliveryInDoubt`, `RecipientsDeferred` or `RecipientsRefused` if one of ``targets`` is not served.

    ``wait`` is how many seconds the mail server wants to be left alone. Where it recognises what is in doubt,
    and its answer is not ``final``, it is `DeliveryUnconfirmed`.
    """
    known = run.known()
    rows = [known[place] for part, who in targets if (place := (part, who.digest)) in known]
    name = run.claimant.email_type
    if doubtful := _in(rows, DeliveryStatus.IN_DOUBT, DeliveryStatus.SENDING):
        kind: type[Exception] = DeliveryInDoubt if run.policy.in_doubt == "hold" else SMTPServerDisconnected
        if run.entry.provider_key and not final:
            kind = DeliveryUnconfirmed
        run.stopped_by = kind(f"{name}: no reply to the payload ({_described(doubtful)})")
        raise run.stopped_by
    if deferred := _in(rows, DeliveryStatus.DEFERRED):
        raise RecipientsDeferred(
            f"{name}: refused for now: {_described(deferred)}", *([] if wait is None else [wait])
        )
    if refused := _in(rows, DeliveryStatus.REFUSED):
        raise RecipientsRefused(f"{name}: refused for good: {_described(refused)}")


def _in(rows: Sequence[Delivery], *statuses: DeliveryStatus) -> list[Delivery]:
    return [row for row in rows if row.status in statuses]


def _described(rows: Sequence[Delivery]) -> str:
    """Return who and why, addresses masked whatever the ledger shows: results and logs go further than it."""
    shown = [f"{d.recipient.shown or d.recipient.digest[:12]} ({d.code or ''} {d.detail})" for d in rows[:5]]
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return mask_all(", ".join(shown)) + more
