"""docker-compose.yml, and what of the checkout goes into the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from docker.utils.build import exclude_paths

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def build_context() -> set[str]:
    """Return the files that Docker would be sent, by its own reading of .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    return {file for file in exclude_paths(str(ROOT), patterns) if (ROOT / file).is_file()}


def seconds(duration: str) -> int:
    """Return the seconds of ``10s``."""
    return int(duration.removesuffix("s"))
