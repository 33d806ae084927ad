"""Failures for the demo: off unless SHOP_TROUBLE is set."""

import os
import time
import zlib


def strike(tag: str, retries: int, after: bool) -> None:
    """Fail one first attempt in five before the mail goes out, and another one in five right after."""
    if not os.environ.get("SHOP_TROUBLE") or retries:
        return
    luck = zlib.crc32(tag.encode()) % 5
    if not after:
        time.sleep(0.01)  # a template, a query: enough for others to get in between
    if luck == (1 if after else 0):
        raise ConnectionError(f"{tag}: a service of the shop did not answer")
