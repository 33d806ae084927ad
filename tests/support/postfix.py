"""Postfix, run privately: its own configuration, queue and mailboxes. Its master only starts as root."""

from __future__ import annotations

import mailbox
import os
import pwd
import re
import signal
import socket
import time
from email.message import Message
from pathlib import Path

import trustme

from tests.support.servers import Server, find

_MAIN = """\
compatibility_level = 3.6
queue_directory = {here}/queue
data_directory = {here}/data
maillog_file = {here}/maillog
maillog_file_prefixes = {here}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.example.org
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
virtual_mailbox_domains = example.com
virtual_mailbox_base = {here}/boxes
virtual_mailbox_maps = regexp:{here}/people
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
smtpd_recipient_restrictions = check_recipient_access regexp:{here}/access, permit_mynetworks, reject
smtpd_recipient_limit = 50
smtpd_hard_error_limit = 1000
smtpd_error_sleep_time = 0
smtpd_client_connection_count_limit = 0
message_size_limit = 100000
smtpd_tls_security_level = may
smtpd_tls_chain_files = {here}/chain.pem
"""
_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd -o max_use=1
tlsmgr unix - - n 1000? 1 tlsmgr
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix(Server):
    """Takes mail for example.com, except for ``gone…``, and delivers it into one mailbox a person."""

    def __init__(self) -> None:
        super().__init__()
        self.authority = trustme.CA()

    def prepare(self) -> None:
        account = pwd.getpwnam("postfix")
        here = Path(self.directory)
        here.chmod(0o755)
        for name in ("queue", "data", "boxes"):
            (here / name).mkdir()
        for name in ("data", "boxes"):
            os.chown(here / name, account.pw_uid, account.pw_gid)
        names = {"here": here, "port": self.port, "uid": account.pw_uid, "gid": account.pw_gid}
        (here / "main.cf").write_text(_MAIN.format(**names))
        (here / "master.cf").write_text(_MASTER.format(**names))
        (here / "people").write_text("!/^gone/ box\n")
        self.answer("")
        self.authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(f"{here}/chain.pem")
        self.authority.cert_pem.write_to_path(f"{here}/ca.pem")

    def command(self) -> list[str]:
        return [find("postfix"), "-c", self.directory, "start-fg"]

    def stop(self) -> None:
        pid = Path(self.directory, "queue", "pid", "master.pid")
        if self.process is not None and pid.exists():  # it has a process group of its own, and ends that
            os.kill(int(pid.read_text()), signal.SIGTERM)
        super().stop()

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.settimeout(2)
            return connection.recv(100).startswith(b"220")

    def answer(self, rules: str) -> None:
        """Set what RCPT is answered: lines of access(5) in regexp form, for connections from now on."""
        Path(self.directory, "access").write_text(rules)

    def queue(self) -> list[str]:
        """Return the names of the messages that are still in the queue."""
        folders = ("incoming", "active", "deferred", "hold", "maildrop")
        found = (Path(self.directory, "queue", folder).rglob("*") for folder in folders)
        return [path.name for paths in found for path in paths if path.is_file()]

    def emptied(self, seconds: float = 20) -> None:
        """Wait until everything is delivered."""
        end = time.monotonic() + seconds
        while self.queue():
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def delivered(self) -> list[tuple[str, Message]]:
        """Return (recipient, message) for everything delivered since the last call."""
        self.emptied()
        path = Path(self.directory, "boxes", "box")
        if not path.exists():
            return []
        box = mailbox.mbox(str(path))
        found = [(str(message["Delivered-To"]), message) for message in box]
        box.close()
        path.unlink()
        return found

    def log(self) -> str:
        """Return Postfix's own log."""
        return Path(self.directory, "maillog").read_text()

    def queued(self) -> list[int]:
        """Return the number of recipients of each message that ever entered the queue, by the log."""
        return [int(found) for found in re.findall(r"nrcpt=(\d+) \(queue active\)", self.log())]
