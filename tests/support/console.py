"""One kept process of a project, in which tests have functions called, as users call them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from tests.support.processes import kill_group


class Console(ABC):
    """Starts ``python -m tests.support.answering`` on the first question, and again when it has died."""

    directory: Path
    environment: dict[str, str]
    app: str
    """The project's module, which the process imports first: that sets Django up."""

    _process: subprocess.Popen[str] | None = None
    _replies: Queue[str]
    _greeted: bool = False

    @abstractmethod
    def logs(self) -> str:
        """Return what the processes have logged of late, for a test that fails."""

    def start(self) -> None:
        """Start the process, without waiting for it."""
        self._greeted = False
        with (self.directory / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.support.answering", self.app],
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

    def exit(self) -> None:
        """End the process as an exit does: SQLite writes what is in its log into the file."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(10)
        self.stop()

    def ask(
        self,
        question: Callable[..., Any],
        *args: Any,
        dies: bool = False,
        timeout: float = 100,
        **options: Any,
    ) -> Any:
        """Call ``question(*args, **options)`` in the project and return its answer; all of it goes by JSON.

        ``question`` is a function of a module. With ``dies`` it has to end its own process, as a publisher does
        that crashes.
        """
        assert "<" not in question.__qualname__, f"{question} has no module to be imported from"
        line = json.dumps([question.__module__, question.__qualname__, args, options])
        self.greet()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        reply = self._reply(timeout)
        if dies:
            assert reply is None, f"still alive: {reply}"
            return None
        assert reply is not None, f"the process died\n{self.logs()}"
        assert "error" not in reply, reply["error"] + self.logs()
        return reply["answer"]

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
