"""Private servers as context managers: the calling side of `supervisor`."""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from orchestrator.embedded import account as accounts
from orchestrator.embedded import supervisor
from orchestrator.embedded.account import Account
from orchestrator.embedded.binaries import find_binaries
from orchestrator.embedded.supervisor import Job
from orchestrator.errors import ConfigError

# A Unix socket's path has at most 103 bytes on macOS (107 on Linux); 15 are the socket's own name.
_LONGEST_DIRECTORY = 88
_LONGEST_PARENT = _LONGEST_DIRECTORY - len("/orchestrator-12345678")
_JOIN_POLL_S = 0.02
_JOIN_TIMEOUT_S = supervisor.START_TIMEOUT_S + 30  # another may be stopping before we can start
_LEAVE_TIMEOUT_S = 30.0


@contextlib.contextmanager
def throwaway(
    *,
    settings: Mapping[str, str] | None = None,
    binaries: Path | None = None,
    account: Account | None = None,
    parent: Path | None = None,
) -> Iterator[str]:
    """Run a fresh private server and yield its DSN; leave nothing behind.

    `settings` are PostgreSQL's, as text. Durability is on unless they say otherwise. `binaries` and
    `account` override what `find_binaries` and `account.choose` would take. Its directory is made
    in `parent`, else in TMPDIR or where that is too long for sockets, /tmp. Raises ConfigError
    where no server can run.
    """
    binaries = binaries or find_binaries()
    account = account or accounts.choose(binaries)
    directory = str(parent or _short_directory(account))
    job = _job(binaries, account, parent=directory, settings=settings or {})
    with _leaving(_supervise(job)) as user:
        yield _greeting_or_error(user)


@contextlib.contextmanager
def persistent(
    data_dir: Path,
    *,
    settings: Mapping[str, str] | None = None,
    binaries: Path | None = None,
    account: Account | None = None,
) -> Iterator[str]:
    """Join the private server that persists in `data_dir`, starting it if need be; yield its DSN.

    Shared by every process that enters with the same directory; stopped with the last of them. The
    arguments are those of `throwaway` and count for whoever starts it. Raises ConfigError.
    """
    home = _prepared(data_dir)
    deadline = time.monotonic() + _JOIN_TIMEOUT_S
    while True:
        joined = _join(home) or _start(home, settings or {}, binaries, account)
        if joined is not None:
            break
        if time.monotonic() > deadline:
            raise ConfigError(
                f"the server in {home} neither answers nor ends:"
                f" stop the process named in {home / 'data' / 'postmaster.pid'}"
            )
        time.sleep(_JOIN_POLL_S)
    user, dsn = joined
    with _leaving(user):
        yield dsn


def default_data_dir() -> Path:
    """Return where this user's persistent server lives: XDG_DATA_HOME, the home, or TMPDIR.

    The last serves who has no writable home, and may be emptied by the system.
    """
    bases = [os.environ.get("XDG_DATA_HOME", ""), str(Path("~/.local/share").expanduser())]
    for base in map(Path, filter(None, bases)):
        if base.is_absolute() and _is_writable(base):
            return base / "orchestrator"
    return Path(_temporary_directory()) / f"orchestrator-of-{os.geteuid()}"


def _is_writable(directory: Path) -> bool:
    """Tell whether `directory` can be written, or created where the nearest parent exists."""
    existing = next(step for step in (directory, *directory.parents) if step.exists())
    return os.access(existing, os.W_OK | os.X_OK)


def _job(
    binaries: Path,
    account: Account,
    *,
    parent: str = "",
    directory: str = "",
    settings: Mapping[str, str],
    lock_fd: int | None = None,
) -> Job:
    return Job(
        binaries=str(binaries),
        prefix=account.prefix(),
        owner=[account.owner_uid, account.owner_gid] if account.is_other else None,
        copy_programs=account.copy_programs,
        parent=parent,
        directory=directory,
        settings=dict(settings),
        lock_fd=lock_fd,
    )


def _supervise(job: Job) -> socket.socket:
    """Start a supervisor and return our end of its first user's socket."""
    ours, theirs = socket.socketpair()
    # -I and -S: neither the caller's environment nor installed packages can slow or bend it.
    command = [sys.executable, "-I", "-S", str(Path(supervisor.__file__)), json.dumps(asdict(job))]
    with theirs:
        subprocess.run(
            command,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=() if job.lock_fd is None else (job.lock_fd,),
            check=True,
        )
    return ours


def _greeting(user: socket.socket) -> dict[str, str] | None:
    """Return the supervisor's greeting, or None if it went away or stays silent."""
    user.settimeout(_JOIN_TIMEOUT_S)
    try:
        with user.makefile("rb") as lines:
            line = lines.readline()
    except OSError:
        return None
    greeting: dict[str, str] | None = json.loads(line) if line else None
    return greeting


def _greeting_or_error(user: socket.socket) -> str:
    greeting = _greeting(user) or {"error": "its supervisor ended without an answer"}
    if "error" in greeting:
        raise ConfigError(f"the private PostgreSQL did not start: {greeting['error']}")
    return greeting["dsn"]


@contextlib.contextmanager
def _leaving(user: socket.socket) -> Iterator[socket.socket]:
    """Afterwards say that we are done, and wait until the server is stopped or left to others."""
    try:
        yield user
    finally:
        user.settimeout(_LEAVE_TIMEOUT_S)
        with contextlib.suppress(OSError):  # the supervisor was killed: nobody to wait for
            user.shutdown(socket.SHUT_WR)
            while user.recv(1024):
                pass  # a greeting that nobody read
        user.close()


def _prepared(data_dir: Path) -> Path:
    """Create `data_dir` if absent, and refuse one that is not ours to use."""
    home = data_dir.absolute()
    if len(os.fsencode(home)) > _LONGEST_DIRECTORY:
        raise ConfigError(
            f"{home} is too long for a socket (at most {_LONGEST_DIRECTORY} bytes):"
            " choose a shorter data directory"
        )
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        has_other_files = any(home.iterdir()) and not (home / "lock").exists()
        status = home.stat()
    except OSError as error:
        raise ConfigError(f"cannot use the data directory {home}: {error.strerror}") from error
    if status.st_uid not in accounts.own_uids():
        raise ConfigError(f"{home} belongs to uid {status.st_uid}: name a directory of your own")
    if has_other_files:
        raise ConfigError(f"{home} holds other files: name an empty or new data directory")
    if status.st_mode & 0o077:
        raise ConfigError(f"{home} is open to other users: run chmod 700 {home}")
    return home


def _join(home: Path) -> tuple[socket.socket, str] | None:
    """Join the running server, or return None if there is none (any more)."""
    user = socket.socket(socket.AF_UNIX)
    try:
        user.connect(str(home / "control"))
    except OSError:
        user.close()
        return None
    greeting = _greeting(user)
    if greeting is None:
        user.close()
        return None
    return user, greeting["dsn"]


def _start(
    home: Path, settings: Mapping[str, str], binaries: Path | None, account: Account | None
) -> tuple[socket.socket, str] | None:
    """Start the server unless another process is at it; then return None."""
    with (home / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        binaries = binaries or find_binaries()
        account = account or accounts.choose(binaries, owner_uid=_owner(home / "data"))
        if not account.can_enter(home.parent):
            raise ConfigError(
                f"the server runs as uid {account.owner_uid}, which cannot reach {home}:"
                " choose a data directory outside private directories, or set DATABASE_URL"
            )
        user = _supervise(
            _job(binaries, account, directory=str(home), settings=settings, lock_fd=lock.fileno())
        )
    try:
        return user, _greeting_or_error(user)
    except BaseException:
        user.close()
        raise


def _owner(data: Path) -> int | None:
    return data.stat().st_uid if data.exists() else None


def _short_directory(account: Account) -> str:
    """Return a directory for temporary ones, short enough for sockets and open to the account."""
    for parent in (_temporary_directory(), "/tmp", "/var/tmp"):
        usable = os.access(parent, os.W_OK | os.X_OK) and account.can_enter(Path(parent).resolve())
        if usable and len(os.fsencode(parent)) <= _LONGEST_PARENT:
            return parent
    raise ConfigError(
        f"no temporary directory of at most {_LONGEST_PARENT} bytes is writable: set TMPDIR"
    )


def _temporary_directory() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ConfigError("no temporary directory is writable: set TMPDIR") from error
