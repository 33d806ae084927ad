"""``python -m tests.acceptance.manage COMMAND …``: run a management command in the project."""

from __future__ import annotations

import logging
import sys

from django.core.management import execute_from_command_line

from tests.acceptance import app

assert app.app is not None, "the project is imported first: the command's app is the project's"

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    execute_from_command_line(["manage", *sys.argv[1:]])
