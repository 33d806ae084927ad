"""The email backend that writes every hand-over into the ledger."""

from .backend import EmailBackend

__all__ = ["EmailBackend"]
