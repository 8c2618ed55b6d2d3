"""How each kind of fault is done. Where there is nobody to strike (no leader just now) it is not
done, and does not count.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg

from orchestrator.errors import OrchestratorError
from tests.faults.chaos.world import World, insist
from tests.faults.judge.history import Retry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.faults.chaos.schedule import Fault

_PATIENCE_S = 0.4


def strike(world: World, fault: Fault) -> None:
    """Do what the schedule says, if that is possible now."""
    try:
        done = STRIKES[fault.kind](world, fault.args)
    except (psycopg.Error, OrchestratorError):
        # The server is away: another fault was faster.
        return
    if done:
        world.done.append(fault.kind)


# Leaders ------------------------------------------------------------------------------------------


def _kill_leader(world: World, args: Mapping[str, Any]) -> bool:
    if (led := world.leader()) is None:
        return False
    world.lose("kill", led[2])
    world.send(led[0], signal.SIGKILL)
    return True


def _stop_leader(world: World, args: Mapping[str, Any]) -> bool:
    if (led := world.leader()) is None:
        return False
    if args["for_s"] > 0.6:
        world.lose("stop", led[2])
    world.send(led[0], signal.SIGSTOP)
    world.after(args["for_s"], lambda: world.send(led[0], signal.SIGCONT))
    return True


@contextmanager
def _in_its_tick(world: World, table: str) -> Iterator[tuple[tuple[int, int, int], Any] | None]:
    """Hold the leader in the middle of a tick, by a row that it needs."""
    led = world.leader()
    if led is None:
        yield None
        return
    with psycopg.connect(world.dsn, connect_timeout=2, application_name="chaos hold") as holder:
        holder.execute(f"select from orchestrator.{table} where queue = 1 for update".encode())
        deadline = time.monotonic() + _PATIENCE_S
        while not world.rows("select cardinality(pg_blocking_pids(%s)) > 0", led[1])[0][0]:
            if time.monotonic() > deadline:
                yield None
                return
            time.sleep(0.005)
        yield led, holder


def _kill_in_tick(world: World, args: Mapping[str, Any]) -> bool:
    with _in_its_tick(world, "queue_state") as found:
        if found is None:
            return False
        (pid, _, epoch), _ = found
        world.lose("kill in tick", epoch)
        world.send(pid, signal.SIGKILL)
    return True


def _stop_in_tick(world: World, args: Mapping[str, Any]) -> bool:
    with _in_its_tick(world, "queue_state") as found:
        if found is None:
            return False
        (pid, _, epoch), _ = found
        if args["for_s"] > 0.6:
            world.lose("stop in tick", epoch)
        world.send(pid, signal.SIGSTOP)
        world.after(args["for_s"], lambda: world.send(pid, signal.SIGCONT))
    return True


def _terminate_leader(world: World, args: Mapping[str, Any]) -> bool:
    if (led := world.leader()) is None:
        return False
    world.lose("terminate", led[2])
    world.rows("select pg_terminate_backend(%s)", led[1])
    return True


def _usurp(world: World, args: Mapping[str, Any]) -> bool:
    """Open a term without the lock while the leader waits for the fence with a tick in hand.

    As a lock that means nothing would have it: behind a pooler, or after a failover.
    """
    with _in_its_tick(world, "orchestrator_lock") as found:
        if found is None:
            return False
        (_, _, epoch), holder = found
        holder.execute(
            "update orchestrator.orchestrator_lock set epoch = epoch + 1, term = gen_random_uuid(),"
            " holder = 'usurper', backend_pid = 0 where queue = 1"
        )
        holder.execute(
            "insert into orchestrator.leadership_log (queue, epoch, term, holder, timeline, event)"
            " select queue, epoch, term, holder, timeline, 'elected'"
            " from orchestrator.orchestrator_lock where queue = 1"
        )
        world.lose("usurp", epoch + 1)
        holder.commit()
    return True


def _resign(world: World, args: Mapping[str, Any]) -> bool:
    if (led := world.leader()) is None:
        return False
    world.lose("resign", led[2])
    world.send(led[0], signal.SIGTERM)
    return True


def _kill_standby(world: World, args: Mapping[str, Any]) -> bool:
    led = world.leader()
    standing = [pid for pid in world.pids("replica") if led is None or pid != led[0]]
    for pid in standing[:1]:
        world.send(pid, signal.SIGKILL)
    return bool(standing)


# The server ---------------------------------------------------------------------------------------

_SESSIONS = (
    "select pid from pg_stat_activity where datname = current_database()"
    " and application_name like 'orchestrator%' order by pid"
)


def _terminate_sessions(world: World, args: Mapping[str, Any]) -> bool:
    dice = random.Random(args["dice"])
    led = world.leader()
    pids = [pid for (pid,) in world.rows(_SESSIONS) if dice.random() < args["part"]]
    if led is not None and led[1] in pids:
        world.lose("terminate", led[2])
    world.rows("select count(pg_terminate_backend(pid)) from unnest(%s::int[]) pid", pids)
    return bool(pids)


def _kill_backend(world: World, args: Mapping[str, Any]) -> bool:
    pids = [pid for (pid,) in world.rows(_SESSIONS)]
    if not pids:
        return False
    led = world.leader()
    if led is not None:
        world.lose("kill backend", led[2])
    with suppress(ProcessLookupError):
        os.kill(random.Random(args["dice"]).choice(pids), signal.SIGKILL)
    time.sleep(0.02)
    world.server.await_ready()
    return True


def _stop_server(world: World, args: Mapping[str, Any]) -> bool:
    if (led := world.leader()) is not None:
        world.lose("stop server", led[2])
    world.server.stop()
    world.server.start()
    return True


# The network --------------------------------------------------------------------------------------


def _delay(world: World, args: Mapping[str, Any]) -> bool:
    weather = world.proxy.weather[args["of"]]
    weather.delay_s = args["by_s"]
    world.after(args["for_s"], lambda: setattr(weather, "delay_s", 0.0))
    return True


def _trickle(world: World, args: Mapping[str, Any]) -> bool:
    weather = world.proxy.weather[args["of"]]
    weather.trickle = True
    world.after(args["for_s"], lambda: setattr(weather, "trickle", False))
    return True


def _cut(world: World, args: Mapping[str, Any]) -> bool:
    if args["of"] == "leader" and (led := world.leader()) is not None:
        world.lose("cut", led[2])
    world.proxy.cut(args["of"])
    return True


def _lose_one_way(world: World, args: Mapping[str, Any]) -> bool:
    kind = args["of"]
    if kind == "leader" and args["for_s"] > 0.6 and (led := world.leader()) is not None:
        world.lose("lose one way", led[2])
    weather = world.proxy.weather[kind]
    weather.hole = args["way"]

    def heal() -> None:
        weather.hole = ""
        world.proxy.cut(kind, torn=True)

    world.after(args["for_s"], heal)
    return True


def _lose_reply(world: World, args: Mapping[str, Any]) -> bool:
    kind = args["of"]
    world.proxy.weather[kind].lose = b"COMMIT\0" if kind == "leader" else b"SELECT "
    return True


# Workers ------------------------------------------------------------------------------------------


def _signal_worker(number: signal.Signals) -> Callable[[World, Mapping[str, Any]], bool]:
    def act(world: World, args: Mapping[str, Any]) -> bool:
        pid = world.pid_of(f"worker {args['which']}")
        if pid is None or pid in world.stopped:
            return False
        world.send(pid, number)
        if number is signal.SIGSTOP:
            world.after(args["for_s"], lambda: world.send(pid, signal.SIGCONT))
        return True

    return act


# Configuration and verbs --------------------------------------------------------------------------


def _set_cap(world: World, args: Mapping[str, Any]) -> bool:
    world.set_cap(args["org"], args["to"])
    return True


def _pause_org(world: World, args: Mapping[str, Any]) -> bool:
    world.client.pause_org(args["org"])
    world.after(args["for_s"], lambda: insist(lambda: world.client.resume_org(args["org"])))
    return True


def _pause_queue(world: World, args: Mapping[str, Any]) -> bool:
    def pause(value: str) -> None:
        # Not over the connection of the schedule, which may hold what this one waits for.
        with psycopg.connect(world.dsn, connect_timeout=2, application_name="chaos hand") as hand:
            hand.execute(f"update orchestrator.queue set paused_at = {value} where id = 1".encode())

    pause("now()")
    world.after(args["for_s"], lambda: insist(lambda: pause("null")))
    return True


def _weigh(world: World, args: Mapping[str, Any]) -> bool:
    world.client.set_org(args["org"], weight=args["to"])
    return True


def _kappa(world: World, args: Mapping[str, Any]) -> bool:
    world.rows("update orchestrator.queue set kappa = %s where id = 1 returning 1", args["to"])
    return True


def _cancel(world: World, args: Mapping[str, Any]) -> bool:
    rows = world.rows(
        "select task_id from orchestrator.staging_queue union select task_id from"
        " orchestrator.task_queue union select task_id from orchestrator.scheduled_queue order by 1"
    )
    chosen = random.Random(args["dice"]).sample(rows, min(len(rows), args["tasks"]))
    for (task,) in chosen:
        world.client.cancel(task)
    return bool(chosen)


def _retry(world: World, args: Mapping[str, Any]) -> bool:
    rows = world.rows(
        "select distinct task_id from orchestrator.task_attempt where final order by 1"
    )
    chosen = random.Random(args["dice"]).sample(rows, min(len(rows), args["tasks"]))
    for (task,) in chosen:
        asked_at, outcome = time.time(), "unknown"
        try:
            world.client.retry(task)
            outcome = "done"
        except OrchestratorError as error:
            if "unknown" not in str(error):
                outcome = "refused"
        finally:
            world.retries.append(Retry(task, asked_at, outcome))
    return bool(chosen)


STRIKES: Mapping[str, Callable[[World, Mapping[str, Any]], bool]] = {
    "kill leader": _kill_leader,
    "kill leader in its tick": _kill_in_tick,
    "stop leader": _stop_leader,
    "stop leader in its tick": _stop_in_tick,
    "terminate leader": _terminate_leader,
    "usurp": _usurp,
    "resign": _resign,
    "kill standby": _kill_standby,
    "terminate sessions": _terminate_sessions,
    "kill backend": _kill_backend,
    "stop server": _stop_server,
    "delay": _delay,
    "trickle": _trickle,
    "cut": _cut,
    "lose one way": _lose_one_way,
    "lose reply": _lose_reply,
    "kill worker": _signal_worker(signal.SIGKILL),
    "stop worker": _signal_worker(signal.SIGSTOP),
    "end worker": _signal_worker(signal.SIGTERM),
    "lower caps": _set_cap,
    "raise caps": _set_cap,
    "pause org": _pause_org,
    "pause queue": _pause_queue,
    "weigh": _weigh,
    "kappa": _kappa,
    "cancel": _cancel,
    "retry": _retry,
}
