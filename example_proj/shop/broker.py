"""The broker that needs no server: Kombu's ``filesystem://``, with messages that appear whole or not at all.

Kombu's own creates a message's file and then fills it, so a reader may take it while it is still empty, and
a process killed while it publishes leaves a torn one.
"""

import os
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    """Writes beside the queue and renames into it."""

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:
        folder = Path(self.data_folder_out)
        name = f"{round(time.monotonic() * 1000)}_{uuid4()}"
        unfinished = folder / f"{name}.unfinished"
        unfinished.write_text(dumps(payload), encoding="utf-8")
        os.replace(unfinished, folder / f"{name}.{queue}.msg")


class Transport(filesystem.Transport):
    """Kombu's transport with the channel above."""

    Channel = Channel
