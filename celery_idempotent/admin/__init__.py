"""The admin pages, where Django looks for them."""

from . import pages  # noqa: F401
