"""System checks: mistakes that can be known before the first mail."""

from . import mail, settings, tasks  # noqa: F401
