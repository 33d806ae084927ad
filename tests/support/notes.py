"""What a project's processes and its test leave for each other, as files in the project's directory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from tests.support.worker import wait_for


class Notes(ABC):
    """``bodies`` is what the bodies note; ``crash`` the point at which a process is to be killed.

    ``pause`` is the point at which one is to be stopped, and ``paused`` who was: a process id a line.
    """

    directory: Path

    @abstractmethod
    def logs(self) -> str:
        """Return what the processes have logged of late, for a test that fails."""

    def bodies(self) -> list[str]:
        """Return what the bodies noted."""
        path = self.directory / "bodies"
        return path.read_text().splitlines() if path.exists() else []

    def crash_at(self, point: str) -> None:
        """Kill the process that reaches ``point`` next."""
        self._leave("crash", point)

    def crashed(self) -> None:
        """Wait until it has happened."""
        wait_for(lambda: not (self.directory / "crash").exists(), 30, self.logs)

    def pause_at(self, point: str) -> None:
        """Stop the process that reaches ``point`` next."""
        self._leave("pause", point)

    def _leave(self, name: str, point: str) -> None:
        """Write the file ``name``, which is there only once it is whole: processes look at it all the time."""
        part = self.directory / f"{name}.part"
        part.write_text(point)
        part.replace(self.directory / name)

    def paused(self) -> list[int]:
        """Return the ids of the processes that stopped so far, without one whose line is not whole yet."""
        path = self.directory / "paused"
        noted = path.read_text() if path.exists() else ""
        return [int(line) for line in noted.splitlines(keepends=True) if line.endswith("\n")]

    def forget(self, *more: str) -> None:
        """Remove the notes, and the files ``more``."""
        for name in ("bodies", "crash", "pause", "paused", *more):
            (self.directory / name).unlink(missing_ok=True)
