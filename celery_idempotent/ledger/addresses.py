"""Addresses: one form for everything that means the same mailbox, and what may be stored of it."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from email.utils import parseaddr
from urllib.parse import quote

from .entry import Recipient

_ADDRESS_WITHIN = re.compile(
    r"(?:\"[^\"]*\"|'[^'\s]*'|[^@\s<>,;:()\"']+)@[^@\s<>,;:()\"']+"
    r"|[^@\s<>,;:()\"'=/?&%]+%40[\w.-]+"  # in a URL
)
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
    return _ADDRESS_WITHIN.sub(
        lambda found: "***" if form == "digest" else mask(_unquoted(found.group())), text
    )


def digest_all(text: str, salt: str) -> str:
    """Return ``text`` with the beginning of its digest under ``salt`` in place of every address."""
    return _ADDRESS_WITHIN.sub(
        lambda found: recipient(_unquoted(found.group()), salt, "digest").digest[:SHORT], text
    )


def _unquoted(found: str) -> str:
    return found if "@" in found else found.replace("%40", "@")


def printable(text: str) -> str:
    """Return ``text`` as every store can keep it: control characters and lone surrogates replaced."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in text)
