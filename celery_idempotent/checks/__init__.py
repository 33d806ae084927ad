"""System checks of settings, tasks and mailers."""

from . import mail, settings, tasks  # noqa: F401
