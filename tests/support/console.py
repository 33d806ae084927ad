"""A process of the project that stays: it runs what tests send it, as a user's own code would run there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

_LOOP = """
import json, sys, traceback
from {app} import *

def run(code):
    given = []
    scope = {{**globals(), "answer": given.append}}
    try:
        exec(code, scope)
        return {{"answer": given[-1] if given else None}}
    except BaseException:
        return {{"error": traceback.format_exc()}}

for line in sys.stdin:
    print("\\n" + json.dumps(run(json.loads(line))), flush=True)
"""


class Console:
    """Imports everything from ``app`` and answers until the end of the with block."""

    def __init__(self, app: str, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _LOOP.format(app=app)],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, code: str) -> Any:
        """Run ``code`` and return what it gives to ``answer()``; what it raises fails the test."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(('{"answer": ', '{"error": ')):
                said = json.loads(line)
                assert "error" not in said, said["error"]
                return said["answer"]
        raise AssertionError("the console has ended")
