"""The note that travels with a job: the key of its call, so that a retry keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..ledger.policy import Claimant
from .call_keys import Identity
from .email_type import EmailType
from .options import Args, Kwargs

HEADER = "celery_idempotent"
"""Name under which the note travels: a header of Celery's messages, an item of other queues' ``meta``."""
Counter = Literal["waits", "deferrals"]
"""What a note counts: how often its job had to wait, and how often no server took its mail yet."""
_TEXTS = ("key", "fingerprint", "label")
_COUNTERS = ("waits", "deferrals")


@dataclass(frozen=True, slots=True)
class JobNote:
    """What is known of one job's call. Written for one job id: headers get copied to other jobs."""

    job_id: str
    key: str
    fingerprint: str
    label: str
    waits: int = 0
    deferrals: int = 0
    more: Mapping[str, object] = field(default_factory=dict)
    """What else stands in the note: the database of its outbox row, an outcome, words of a newer version."""

    @classmethod
    def of(cls, identity: Identity, job_id: str) -> JobNote:
        """Return the first note of the job ``job_id``."""
        return cls(job_id, identity.key, identity.fingerprint, identity.label)

    @classmethod
    def from_carried(cls, carried: object, job_id: str) -> JobNote | None:
        """Return the note in what a job ``carried``, or None where it is not whole, or was another job's."""
        note = carried.get(HEADER) if isinstance(carried, Mapping) else None
        if not isinstance(note, dict) or note.get("id") != job_id:
            return None
        texts = [one for name in _TEXTS if isinstance(one := note.get(name), str)]
        counts = [one for name in _COUNTERS if type(one := note.get(name, 0)) is int]
        if len(texts) < len(_TEXTS) or len(counts) < len(_COUNTERS):
            return None
        (key, fingerprint, label), (waits, deferrals) = texts, counts
        more = {name: value for name, value in note.items() if name not in ("id", *_TEXTS, *_COUNTERS)}
        return cls(job_id, key, fingerprint, label, waits, deferrals, more)

    def to_carry(self) -> dict[str, object]:
        """Return the note as plain values; counters that have not counted are left out."""
        counts = {name: count for name in _COUNTERS if (count := getattr(self, name))}
        texts = {name: getattr(self, name) for name in _TEXTS}
        return {"id": self.job_id, **texts, **counts, **self.more}

    def counted(self, counter: Counter) -> JobNote:
        """Return the note with one more of ``counter``."""
        return replace(self, **{counter: getattr(self, counter) + 1})

    def with_more(self, **more: object) -> JobNote:
        """Return the note with ``more`` beside the call."""
        return replace(self, more={**self.more, **more})

    def claimant(
        self,
        email_type: EmailType,
        worker: str = "",
        args: Args = None,
        kwargs: Kwargs = None,
    ) -> Claimant:
        """Return who asks the ledger for this call of ``email_type``, with the job's own arguments."""
        return Claimant(
            key=self.key,
            email_type=email_type.name,
            task_id=self.job_id,
            worker=worker,
            label=self.label,
            fingerprint=self.fingerprint,
            args=tuple(args or ())[email_type.filled_in :],
            kwargs=dict(kwargs or {}),
        )

    def argsrepr(self) -> str:
        """Return what Celery shows in place of the arguments: the key."""
        return f"({self.key!r},)"

    def kwargsrepr(self) -> str:
        """Return what Celery shows in place of the keyword arguments: the key fields, addresses masked."""
        return f"{{{self.label}}}"
