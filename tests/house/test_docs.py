"""The pages in docs/ and the code say the same, and every link leads somewhere."""

from __future__ import annotations

import ast
import itertools
import re
from argparse import _SubParsersAction
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.dispatch import Signal

from celery_idempotent import signals
from celery_idempotent.conf import DEFAULTS
from celery_idempotent.email_types.options import Options
from celery_idempotent.ledger.entry import Entry
from celery_idempotent.ledger.situations import find_situation
from celery_idempotent.ledger.status import TRANSITIONS, Status
from celery_idempotent.mail.smtp.reply_codes import TABLE, Kind
from celery_idempotent.management.commands.idempotency import Command

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("example_proj/*.md")])


def text_of(page: Path) -> str:
    """Return the prose of ``page``, without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return what a link can name on ``page`` after its ``#``."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(page: str, after: str = "") -> dict[str, list[str]]:
    """Return the first table of ``docs/<page>`` below ``after``: what each row names, and its other cells."""
    text = (ROOT / "docs" / page).read_text()
    lines = text[text.index(after) :].splitlines()
    start = next(n for n, line in enumerate(lines) if re.match(r"\|[-| ]+\|$", line))
    rows = {}
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        name, *rest = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        rows[name.strip("`")] = rest
    return rows


def written_defaults(rows: dict[str, list[str]]) -> Iterator[tuple[str, Any]]:
    """Yield the names whose default the table shows as a literal, with its value."""
    for name, (default, *_) in rows.items():
        if re.fullmatch(r"`[^`]*`", default):
            try:
                yield name, ast.literal_eval(default.strip("`"))
            except (ValueError, SyntaxError):
                continue


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_nothing_is_left_to_be_filled_in() -> None:
    """Neither a figure on a page nor one in ``make help``."""
    found = [
        page.name
        for page in (*PAGES, ROOT / "Makefile")
        if re.search(r"@[A-Z]+@|about \.\.\.", page.read_text())
    ]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page: Path) -> None:
    """So that "shown in" and "tested in" can be looked up."""
    folders = "tests|bench|celery_idempotent|example_proj"
    named = re.findall(rf"\b((?:{folders})/[\w/]+\.py)\b", text_of(page))
    assert [name for name in named if not (ROOT / name).exists()] == []
    tests = Counter(path.name for path in ROOT.glob("tests/**/test_*.py"))
    bare = set(re.findall(r"`(test_\w+\.py)`", text_of(page)))
    assert {name: tests[name] for name in bare if tests[name] != 1} == {}, "name the folder as well"


def test_every_option_is_in_the_table() -> None:
    """With its default. ``filled_in`` is between the package and its adapters."""
    rows = table("reference/options.md", "## Task options")
    assert set(rows) == set(Options.__annotations__) - {"filled_in"}
    for name, default in written_defaults(rows):
        assert getattr(Options, name) == default, name


MEANINGS = {
    "a limit": Kind.LIMIT,
    "yes": Kind.ACCEPTED,
    "no, for now": Kind.TEMPORARY,
    "no, for good": Kind.PERMANENT,
    "unknown": Kind.UNKNOWN,
}


def replies_of(row: str) -> Iterator[tuple[int, str]]:
    """Yield replies as ``row`` describes them: each of its codes with each of its texts, or else with none."""
    texts = re.findall(r'"([^"]+)"', row) + re.findall(r"`(x\.\d\.\d)`", row)
    for pattern in re.findall(r"`([1-5][\dx]{2})`", row):
        for digits in itertools.product(*(range(10) if x == "x" else (int(x),) for x in pattern)):
            code = int("".join(map(str, digits)))
            for text in texts or ["", "later"]:
                yield code, text.replace("x", pattern[0])


def fitting(code: int, text: str, at_rcpt: bool) -> int | None:
    """Return the place in `TABLE` of what decides about a reply."""
    reply = f"{code} {text}"
    fits = (n for n, (_, rcpt, found) in enumerate(TABLE) if (at_rcpt or not rcpt) and found.match(reply))
    return next(fits, None)


def test_the_table_of_replies_is_the_classifiers() -> None:
    """Each row of the page is what the classifier says, and each of its own rows is on the page, in order."""
    rows = table("reference/mail.md", "## What a reply means")
    seen: list[int | None] = []
    before: set[tuple[int, str, bool]] = set()
    for row, (means, becomes, _) in rows.items():
        at_rcpt = "to RCPT" in row
        told = {(*reply, at_rcpt) for reply in replies_of(f"`{row}`")} - before
        assert told
        assert {Kind.look_up(*reply) for reply in told} == {MEANINGS[means]}, row
        assert becomes == "the same" or MEANINGS[means].status.value.replace("_", " ") in becomes, row
        seen += sorted({fitting(*reply) for reply in told}, key=str)
        before |= told
    assert seen == [*range(len(TABLE)), None]


def test_every_setting_is_in_the_table() -> None:
    """With its default."""
    rows = table("reference/options.md", "## Settings")
    assert set(rows) == set(DEFAULTS)
    for name, default in written_defaults(rows):
        assert DEFAULTS[name] == default, name


def public_names(page: str) -> dict[str, set[str]]:
    """Return the names that each module's section of ``page`` has in its table."""
    parts = re.split(r"^## `([\w.]+)`$", page, flags=re.MULTILINE)[1:]
    rows = {module: re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE) for module, text in batched(parts)}
    return {module: set(re.findall(r"`(\w+)`", " ".join(found))) for module, found in rows.items()}


def batched(parts: list[str]) -> Iterator[tuple[str, str]]:
    """Yield ``parts`` two by two."""
    return zip(parts[::2], parts[1::2], strict=True)


def test_every_public_name_is_on_its_page_and_can_be_imported() -> None:
    """Both ways: a module has an ``__all__`` if the page has a section for it, with the same names."""
    named = public_names((ROOT / "docs/reference/python.md").read_text())
    named["celery_idempotent"] |= named["celery_idempotent.exceptions"]
    sources = sorted((ROOT / "celery_idempotent").glob("**/*.py"))
    open_ones = {path for path in sources if re.search(r"^__all__\b", path.read_text(), re.MULTILINE)}
    paths = {str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in open_ones}
    modules = {path.removesuffix(".__init__") for path in paths}
    assert modules == set(named)
    for name in modules:
        module = import_module(name)
        assert set(module.__all__) == named[name], name
        for known in module.__all__:
            assert getattr(module, known) is not None


def test_no_page_sends_anybody_to_an_inner_module() -> None:
    """What users import is on the page of Python names; a page that is for maintainers names files."""
    named = public_names((ROOT / "docs/reference/python.md").read_text())
    named["celery_idempotent"] |= named["celery_idempotent.exceptions"]
    for page in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]:
        for module, names in re.findall(r"from (celery_idempotent[\w.]*) import ([\w, ]+)", page.read_text()):
            assert set(names.replace(" ", "").split(",")) <= named[module], (page.name, module)


def test_every_check_is_in_the_table() -> None:
    """Those that the code can return, and no others."""
    sources = (ROOT / "celery_idempotent").glob("**/*.py")
    ids = {found for source in sources for found in re.findall(r'id="(\w+\.[EW]\d+)"', source.read_text())}
    assert set(table("reference/checks.md")) == ids


def test_every_command_is_in_the_table() -> None:
    """``manage.py idempotency`` has those that the page lists."""
    parser = Command().create_parser("manage.py", "idempotency")
    (commands,) = [action for action in parser._actions if isinstance(action, _SubParsersAction)]
    assert {name.split()[0] for name in table("reference/commands.md")} == set(commands.choices)


DECIDED = {
    "claimed, lease running": (Status.CLAIMED, 60),
    "claimed, lease passed": (Status.CLAIMED, -60),
    "sending, send deadline running": (Status.SENDING, 60),
    "sending, send deadline passed": (Status.SENDING, -60),
    "in doubt, send deadline running": (Status.IN_DOUBT, 60),
    "in doubt, send deadline passed": (Status.IN_DOUBT, -60),
    "released": (Status.RELEASED, None),
    "released, kept for a retry": (Status.RELEASED, 60),
    "sent": (Status.SENT, None),
    "failed": (Status.FAILED, None),
    "cancelled": (Status.CANCELLED, None),
}


def test_the_decisions_on_the_page_are_those_of_the_table() -> None:
    """What an operator may type about an email in each status."""
    rows = table("reference/commands.md", "## Decisions")
    assert set(rows) == set(DECIDED)
    now = datetime.now(timezone.utc)
    for name, (status, seconds) in DECIDED.items():
        deadline = None if seconds is None else now + timedelta(seconds=seconds)
        found = find_situation(Entry("k", "invoice", status, "task-1", deadline=deadline), now).decisions
        typed = {"resolve --sent" if found == ("resolve_sent",) else one.partition("_")[0] for one in found}
        assert set(re.findall(r"`([^`]+)`", rows[name][0])) == typed, name


def test_every_signal_is_in_the_table() -> None:
    """By name."""
    assert set(table("reference/signals.md")) == {
        name for name, value in vars(signals).items() if isinstance(value, Signal)
    }


def test_the_diagram_shows_the_transitions() -> None:
    """An edge for each that changes the status, and none that the ledger would refuse."""
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    drawn = set(re.findall(r"^ +(\w+) --> (\w+): ", page, re.MULTILINE))
    allowed = {(old.value, new.value) for old, following in TRANSITIONS.items() for new in following}
    assert drawn <= allowed
    assert {(old, new) for old, new in allowed - drawn if old != new} == set()


ARCHITECTURE = ROOT / "docs/explanation/architecture.md"


def named_on_the_page() -> set[str]:
    """Return the files and folders that the page of the architecture names, as it writes them."""
    return set(re.findall(r"`((?:[\w-]+/)*[\w-]+(?:/|\.py|\.md))`", ARCHITECTURE.read_text()))


def test_every_path_of_the_architecture_exists() -> None:
    """Files of the package without its name, all others from the root of the repository."""
    places = (ROOT, ROOT / "celery_idempotent")
    assert len(named_on_the_page()) > 50
    gone = [name for name in named_on_the_page() if not any((place / name).exists() for place in places)]
    assert gone == []


def test_every_room_is_on_the_page_of_the_architecture() -> None:
    """With what it does: a stranger begins to read there."""
    rooms = {path.name for path in (ROOT / "celery_idempotent").glob("*.py")}
    rooms |= {f"{path.parent.name}/" for path in (ROOT / "celery_idempotent").glob("*/__init__.py")}
    assert rooms - {"__init__.py", "migrations/"} <= named_on_the_page()


def test_the_picture_of_the_layers_is_the_linters() -> None:
    """Row for row."""
    configuration = (ROOT / "pyproject.toml").read_text()
    (layers,) = re.findall(
        r'type = "layers"\n.*?^layers = \[\n(.*?)^\]', configuration, re.DOTALL | re.MULTILINE
    )
    picture = re.findall(r'L\d+\["([^"]+)"\]', ARCHITECTURE.read_text())
    assert picture == [row.replace("(", "").replace(")", "") for row in re.findall(r'"([^"]+)"', layers)]


def test_the_reading_of_one_day_is_as_long_as_it_says() -> None:
    """Each file within a fourth of its lines on the page, and all of them about 4,000."""
    page = ARCHITECTURE.read_text()
    rows = re.findall(r"^\| `(\w[\w/]*\.py)` \| (\d+) \|", page, re.MULTILINE)
    assert len(rows) > 20
    for name, said in rows:
        lines = len((ROOT / "celery_idempotent" / name).read_text().splitlines())
        assert abs(lines - int(said)) <= max(15, lines / 4), (name, lines)
    assert 3_500 <= sum(int(said) for _, said in rows) <= 4_500


def test_every_command_of_redis_is_on_its_page() -> None:
    """Those of the scripts: a user who may not run one of them could not send."""
    scripts = (ROOT / "celery_idempotent/stores/redis/lua").glob("*.lua")
    called = {name for script in scripts for name in re.findall(r"redis\.call\('(\w+)'", script.read_text())}
    assert called <= set(re.findall(r"`([A-Z]+)`", (ROOT / "docs/reference/redis.md").read_text()))
