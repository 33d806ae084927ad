"""Addresses: one form for everything that means the same mailbox, and what may be stored of it."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Callable
from email.utils import parseaddr
from urllib.parse import quote, unquote

from .entry import Recipient

_AT = re.compile(
    r"(?P<quoted>\"[^\"]*\")?@(?=(?P<domain>[^@\s<>,;:()\"'\x00-\x1f]+))|%40(?=(?P<domain_in_url>[\w.-]+))"
)
"""The sign in the middle of an address, in front of its domain, with a local part in quotes before it."""
_QUOTE = r"(?<![\w.!#$%&*+/?^`{|}~-])'"
"""A single quote; behind such characters it is an apostrophe, and part of the address."""
_BEFORE = re.compile(rf"[@\s<>,;:()\"]|{_QUOTE}")
_BEFORE_IN_URL = re.compile(rf"[@\s<>,;:()\"=/?&]|%(?:2[02689CF]|3[A-F])|{_QUOTE}", re.IGNORECASE)
"""What ends an address to the left. In a URL that may be encoded itself; ``%2B`` is a plus, and part of it."""
_LONGEST = 320
"""Characters of an address: 64, the at sign and 255 (RFC 5321 §4.5.3.1). What is longer is masked unread."""
_NAMED = re.compile(r"[^<>@]*<([^<>]+)>")
_NEEDLESSLY_QUOTED = re.compile(r"\"([\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*)\"")
"""A local part that is the same without its quotes (RFC 5321 §4.1.2); that is how Django sends it."""
_ADDRESS = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+")

SHORT = 12
"""Characters of a digest that stand for an address where people read it."""


def is_address(text: str) -> bool:
    """Tell whether ``text`` is one address, bare or as ``Ann <ann@example.com>``."""
    named = _NAMED.fullmatch(text.strip())
    return _ADDRESS.fullmatch(named.group(1) if named else text.strip()) is not None


def normalise(address: str) -> str:
    """Return ``address`` in its one form: bare, without needless quotes, in lower case, its domain in ASCII.

    Case of the local part is significant by RFC 5321 §2.4, but no mail system in use tells mailboxes
    apart by it, and people type it either way. Accents are composed (NFC), as RFC 5198 §3 has text on the
    network: some keyboards and file systems take letters apart.
    """
    bare = parseaddr(address)[1] or address.strip()
    local, at, domain = bare.rpartition("@")
    if quoted := _NEEDLESSLY_QUOTED.fullmatch(local):
        local = quoted.group(1)
    try:
        domain = domain.encode("idna").decode("ascii")
    except UnicodeError:
        pass  # a domain that IDNA cannot express is compared as it stands
    return f"{unicodedata.normalize('NFC', local.lower())}{at}{domain.lower()}"


def mask(address: str) -> str:
    """Return ``address`` with all of its local part but the first character replaced: ``a***@example.com``.

    One without a domain, such as ``root``, is a local part; so is what is no address at all.
    """
    local, at, domain = normalise(address).rpartition("@")
    return f"{local[:1]}***{at}{domain}" if at else f"{domain[:1]}***"


def spellings(address: str) -> list[str]:
    """Return every way in which texts may show ``address``: as given, in its one form, readable, masked.

    And each of these as URLs have it, with and without the rest encoded as well.
    """
    normal = normalise(address)
    local, at, domain = normal.rpartition("@")
    try:
        domain = domain.encode("ascii").decode("idna")
    except UnicodeError:
        pass
    given = parseaddr(address)[1] or address.strip()
    plain = (normal, given, f"{local}{at}{domain}", mask(address))
    in_urls = (form for text in plain for form in (text.replace("@", "%40"), quote(text, safe="")))
    return list(dict.fromkeys((*plain, *in_urls)))


def recipient(address: str, salt: str, form: str) -> Recipient:
    """Return what the ledger keeps of ``address``: its HMAC-SHA256 under ``salt``, and a form to show.

    ``form`` is ``"masked"``, ``"plain"`` or ``"digest"`` (nothing to show).
    """
    normal = normalise(address)
    digest = hmac.new(salt.encode(), normal.encode(), hashlib.sha256).hexdigest()
    shown = {"masked": mask(address), "plain": normal}.get(form, "")
    return Recipient(digest, shown)


def mask_all(text: str, form: str = "masked") -> str:
    """Return ``text`` with every address in it masked, such as those that mail servers quote in replies.

    ``form`` is one that `recipient` takes: ``"digest"`` leaves nothing of an address.
    """
    return _replaced(text, lambda address: "***" if form == "digest" else mask(address))


def digest_all(text: str, salt: str) -> str:
    """Return ``text`` with the beginning of its digest under ``salt`` in place of every address."""
    return _replaced(text, lambda address: recipient(address, salt, "digest").digest[:SHORT])


def _replaced(text: str, show: Callable[[str], str]) -> str:
    """Return ``text`` with what ``show`` makes of each address in its place.

    Each character is looked at a fixed number of times: a server, or a user, may send a megabyte of them.
    """
    parts, end, seen, known = [], 0, 0, dict[str, str]()
    for at in _AT.finditer(text):
        if at.start() < end:
            continue  # in the domain of the address before
        begin = at.start() if at["quoted"] else _begin(text, max(end, seen), at)
        seen = at.end()
        domain_end = at.end() + len(at["domain"] or at["domain_in_url"])
        local = at["quoted"] or text[begin : at.start()]
        if not local:
            continue
        if at["domain_in_url"]:
            local = unquote(local)
        address = f"{local}@{text[at.end() : domain_end]}"
        if address not in known:
            known[address] = show(address) if len(address) <= _LONGEST else "***"
        parts += [text[end:begin], known[address]]
        end = domain_end
    return "".join([*parts, text[end:]])


def _begin(text: str, after: int, at: re.Match[str]) -> int:
    """Return where the address begins whose middle is ``at``, not before ``after``."""
    begin = after
    for found in (_BEFORE_IN_URL if at["domain_in_url"] else _BEFORE).finditer(text, after, at.start()):
        begin = found.end()
    has_quotes = text.endswith("'", begin, at.start()) and text.startswith("'", max(begin - 1, after))
    return begin - has_quotes


def printable(text: str) -> str:
    """Return ``text`` as every store can keep it: control characters and lone surrogates replaced."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in text)
