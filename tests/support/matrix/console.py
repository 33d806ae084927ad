"""A process of the project for a combination's questions, and what is left of its processes at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from tests.support.processes import kill_group
from tests.support.shop import Shop

CONSOLE = """
import json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever else is printed goes to the log
from tests.acceptance.app import *
from django.db import close_old_connections
from kombu import pools
known = dict(globals())
print("{}", file=answers)
for line in sys.stdin:
    given = {}
    close_old_connections()
    pools.reset()  # neither the broker nor the database need be the process that they were
    app._after_fork()
    try:
        exec(compile(json.loads(line), "<ask>", "exec"), {**known, "answer": lambda x: given.update(answer=x)})
        reply = json.dumps(given)
    except BaseException:
        reply = json.dumps({"error": traceback.format_exc()})
    print(reply, file=answers)
"""


@dataclass
class Console(Shop):
    """A `Shop` whose ``ask`` needs no new process each time: one runs as long as the combination."""

    _process: subprocess.Popen[str] | None = None
    _replies: Queue[str] = field(default_factory=Queue)
    _greeted: bool = False

    def start(self) -> None:
        """Start the process, without waiting for it."""
        self._greeted = False
        with (self.directory / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", CONSOLE],
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._replies = Queue()
        threading.Thread(target=self._listen, args=(self._process, self._replies), daemon=True).start()

    @staticmethod
    def _listen(process: subprocess.Popen[str], replies: Queue[str]) -> None:
        with process.stdout as stream:  # type: ignore[union-attr]
            for line in stream:
                replies.put(line)
        replies.put("")

    def stop(self) -> None:
        """End the process; the next question starts another one."""
        process, self._process = self._process, None
        if process is None:
            return
        kill_group(process)
        try:
            process.stdin.close()  # type: ignore[union-attr]
        except OSError:  # something was still to be written
            pass

    def ask(self, code: str, dies: bool = False, timeout: float = 100) -> Any:
        """Run ``code`` in the project and return what it gives to ``answer()``; names do not outlive the code.

        With ``dies`` the code has to end its own process, as a publisher does that crashes.
        """
        self.greet()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        reply = self._reply(timeout)
        if dies:
            assert reply is None, f"still alive: {reply}"
            return None
        assert reply is not None, f"the process died\n{self.logs()}"
        assert "error" not in reply, reply["error"] + self.logs()
        return reply.get("answer")

    def greet(self) -> None:
        """Wait until the process answers; start one if there is none."""
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._process is None:
            self.start()
        if not self._greeted:
            assert self._reply(40) is not None, f"the process did not start\n{self.logs()}"
            self._greeted = True

    def _reply(self, timeout: float) -> Any:
        """Return the next reply; None if the process has ended."""
        try:
            line = self._replies.get(timeout=timeout)
        except Empty:
            self.stop()
            raise AssertionError(f"no answer within {timeout} s\n{self.logs()}") from None
        if not line:
            self.stop()
            return None
        return json.loads(line)

    def logs(self) -> str:
        """Return the ends of the console's and the workers' logs."""
        places = [self.directory / "console.log", *sorted(self.directory.glob("worker*.log"))]
        return "".join(f"--- {place.name}\n{place.read_text()[-4000:]}\n" for place in places if place.exists())


def left_running(directory: Path) -> dict[int, str]:
    """Return the processes whose environment names ``directory``; zombies have no environment."""
    wanted = f"TEST_DIRECTORY={directory}\0".encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes() + b"\0":
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found
