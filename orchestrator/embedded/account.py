"""Which account a private server runs as.

PostgreSQL refuses uid 0, and `initdb` refuses a uid without a passwd entry. Nobody else needs
anything. Root prefers a user namespace, in which its own id reads as another's: the files stay its
own, and nothing has to be readable by anyone else. Where that is forbidden (many containers), it
drops to `nobody`, with a copy of the programs where `nobody` cannot reach them. No user is ever
added and no directory above our own is ever opened.
"""

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.embedded import launch
from orchestrator.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Account:
    """A way to run the server: the launcher's mode, who owns the files, whether programs move."""

    mode: str
    owner_uid: int
    owner_gid: int
    copy_programs: bool = False

    @property
    def is_other(self) -> bool:
        """Tell whether files must be handed over to this account."""
        return self.owner_uid != os.geteuid()

    def prefix(self) -> list[str]:
        """Return the words to put before a command so that it runs as this account."""
        return [sys.executable, "-I", "-S", str(Path(launch.__file__)), self.mode]

    def can_enter(self, directory: Path) -> bool:
        """Tell whether this account may pass through `directory` and all above it."""
        if not self.is_other:
            return True
        return all(step.stat().st_mode & 0o001 for step in (directory, *directory.parents))


def choose(binaries: Path, *, owner_uid: int | None = None) -> Account:
    """Return the first account that can run the server here, tried with the server itself.

    `owner_uid`: who owns an existing data directory; only accounts that write as that id will do.
    Raises ConfigError with what to do instead.
    """
    for account in candidates(binaries):
        if owner_uid in (None, account.owner_uid) and _can_run(account, binaries):
            return account
    if owner_uid is not None and owner_uid != os.geteuid():
        raise ConfigError(f"the data directory belongs to uid {owner_uid}: run as that user")
    raise ConfigError(
        f"PostgreSQL cannot run as {_whoami()} and this machine allows no user namespaces:"
        " set DATABASE_URL to a server of your own"
    )


def candidates(binaries: Path) -> Iterator[Account]:
    """Yield the accounts worth trying for this process, best first."""
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0 and _has_passwd_entry(uid):
        yield Account("self", uid, gid)
        return
    if sys.platform == "linux":
        yield from (Account(f"namespace:{other}", uid, gid) for other in _some_known_uid())
    if uid == 0:
        yield from as_nobody(binaries)


def own_uids() -> set[int]:
    """Return the uids that a data directory of this process may belong to."""
    uid = os.geteuid()
    return {uid} if uid != 0 else {uid, *(entry.pw_uid for entry in _nobody())}


def as_nobody(binaries: Path) -> Iterator[Account]:
    """Yield the account `nobody` for a root process, where there is one."""
    for nobody in _nobody():
        mode = f"user:{nobody.pw_uid}:{nobody.pw_gid}"
        plain = Account(mode, nobody.pw_uid, nobody.pw_gid)
        yield replace(plain, copy_programs=not plain.can_enter(binaries.resolve()))


def _can_run(account: Account, binaries: Path) -> bool:
    program = "/bin/sh" if account.copy_programs else str(binaries / "postgres")
    arguments = ["-c", ":"] if account.copy_programs else ["--version"]
    command = [*account.prefix(), program, *arguments]
    return subprocess.run(command, capture_output=True, cwd="/", check=False).returncode == 0


def _nobody() -> Iterator[pwd.struct_passwd]:
    with contextlib.suppress(KeyError):  # not every container has one
        yield pwd.getpwnam("nobody")


def _has_passwd_entry(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _some_known_uid() -> Iterator[int]:
    """Yield one uid other than root's that has a passwd entry, which is all `initdb` wants."""
    known = [entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0]
    yield from known[:1]


def _whoami() -> str:
    uid = os.geteuid()
    return "root" if uid == 0 else f"uid {uid}, which has no passwd entry,"
