"""The admin: pages about emails, and decisions about them."""

from . import pages  # noqa: F401
