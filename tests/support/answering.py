"""``python -m tests.support.answering APP``: call the functions that a `Console` names, and reply.

A line of the standard input is a JSON list: a module, a function in it, and its arguments. A line of
the standard output is the reply; whatever else is printed goes to the log.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from functools import reduce
from importlib import import_module
from typing import Any


def answer(module: str, name: str, args: list[Any], options: dict[str, Any]) -> str:
    """Return the reply to one question."""
    try:
        question: Any = reduce(getattr, name.split("."), import_module(module))
        return json.dumps({"answer": question(*args, **options)})
    except BaseException:
        return json.dumps({"error": traceback.format_exc()})


def renew_connections() -> None:
    """Forget all connections: neither the broker nor the database need be the process that they were."""
    from celery import current_app
    from django.db import close_old_connections
    from kombu import pools

    close_old_connections()
    pools.reset()
    current_app._after_fork()


def main(app: str) -> None:
    """Answer until nobody asks any more."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    import_module(app)  # before anything of Django or Celery: it sets them up
    print("{}", file=replies)
    for line in sys.stdin:
        renew_connections()
        print(answer(*json.loads(line)), file=replies)


if __name__ == "__main__":
    main(sys.argv[1])
