"""What goes wrong in the demo: an attempt that fails before or after its mail went out.

No real project needs this module. A message header says what is to happen to the first attempt.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HEADER = "shop_mishap"
BEFORE, AFTER = "before", "after"
RENDERING = 0.02


@contextmanager
def around_sending(request: Any) -> Iterator[None]:
    """Note that this process is in the middle of a task, and let its first attempt fail if so asked."""
    folder = os.environ.get("SHOP_BUSY_FOLDER")
    note = Path(folder) / str(os.getpid()) if folder else None
    mishap = (request.headers or {}).get(HEADER) if request.retries == 0 else None
    if note:
        note.write_text(str(os.getppid()))
    try:
        time.sleep(RENDERING if note else 0)  # a template and a few queries
        if mishap == BEFORE:
            raise ConnectionError("the template service did not answer")
        yield
        if mishap == AFTER:
            raise ConnectionError("the mail is out, but the audit service did not answer")
    finally:
        if note:
            note.unlink(missing_ok=True)
