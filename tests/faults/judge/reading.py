"""Read the tables for the judge, by statements of its own: whole at the end, and in snapshots."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any, LiteralString

from psycopg import Connection

from tests.faults.judge.history import Attempt, OrgSeen, Sample, Task, Term, Tick

# One statement, so one snapshot.
_SAMPLE: LiteralString = """
with place as (
  select task_id, org_id, 'staged' as place from orchestrator.staging_queue
  union all select task_id, org_id, 'scheduled' from orchestrator.scheduled_queue
  union all select task_id, org_id, 'admitted' from orchestrator.task_queue
), valid as (
  select u.task_id from orchestrator.lease l
   cross join lateral unnest(l.task_ids, l.dispatch_keys) as u(task_id, key)
   where l.expires_at > clock_timestamp() and exists (
     select from orchestrator.task_queue q
      where q.dispatch_key = u.key and q.task_id = u.task_id and q.claim_id = l.claim_id)
), journaled as (
  select distinct on (u.org_id) u.org_id, j.org_values[u.n * 9 - 6] + j.org_values[u.n * 9 - 2] as in_flight
    from orchestrator.cut_journal j cross join lateral unnest(j.orgs) with ordinality as u(org_id, n)
   order by u.org_id, j.seq desc
), org as (
  select org_id from orchestrator.org_state union select org_id from place union select org_id from journaled
)
select json_build_object(
  'at', extract(epoch from clock_timestamp()),
  'orgs', (select json_object_agg(o.org_id, json_build_array(
      (select count(*) from orchestrator.staging_queue s where s.org_id = o.org_id),
      (select count(*) from orchestrator.task_queue q where q.org_id = o.org_id),
      c.burst_max, c.paused_at is not null or exists (select from orchestrator.queue where paused_at is not null),
      coalesce(c.weight, 1),
      coalesce((select j.in_flight from journaled j where j.org_id = o.org_id),
               (select s.in_flight + s.express_in_flight from orchestrator.org_state s where s.org_id = o.org_id))
      - (select count(*) from orchestrator.task_attempt a, orchestrator.queue_state k
          where a.org_id = o.org_id and a.dispatch_key is not null
            and not pg_visible_in_snapshot(a.xid, k.attempt_snapshot::pg_snapshot))))
    from org o left join orchestrator.org_config c on c.org_id = o.org_id),
  'doubled', (select json_agg(task_id) from (select task_id from place group by 1 having count(*) > 1) d),
  'nowhere', (select json_agg(t.id) from orchestrator.task t
      where not exists (select from place p where p.task_id = t.id)
        and not exists (select from orchestrator.task_attempt a where a.task_id = t.id and final)),
  'shared', (select json_agg(task_id) from (select task_id from valid group by 1 having count(*) > 1) d),
  'unleased', (select json_agg(task_id) from orchestrator.task_queue q
      where claim_id is not null and not exists (
        select from orchestrator.lease l where l.claim_id = q.claim_id and q.dispatch_key = any (l.dispatch_keys))),
  'keys', (select json_agg(idempotency_key) from (
      select t.org_id, t.idempotency_key from orchestrator.task t join place p on p.task_id = t.id
       where t.idempotency_key is not null group by 1, 2 having count(*) > 1) d),
  'fence', (select json_build_array(epoch, term) from orchestrator.orchestrator_lock where queue = 1),
  'idle', (select json_agg(json_build_array(application_name, extract(epoch from clock_timestamp() - state_change)))
      from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'
       and application_name like 'orchestrator%'),
  'locks', (select json_agg(l.pid) from pg_locks l
     where l.locktype = 'advisory' and l.objid = 1 and l.granted
       and l.database = (select oid from pg_database where datname = current_database())
       and l.pid <> (select backend_pid from orchestrator.orchestrator_lock where queue = 1)))
"""  # noqa: E501 - one value a line


def sample(connection: Connection[Any]) -> Sample:
    """Return what one snapshot shows."""
    row = connection.execute(_SAMPLE).fetchone()
    assert row is not None
    seen: dict[str, Any] = row[0] if isinstance(row[0], dict) else json.loads(row[0])
    epoch, term = seen["fence"] or (0, "")
    return Sample(
        at=seen["at"],
        orgs={org: OrgSeen(*values) for org, values in (seen["orgs"] or {}).items()},
        doubled=seen["doubled"] or (),
        nowhere=seen["nowhere"] or (),
        shared=seen["shared"] or (),
        unleased=seen["unleased"] or (),
        keys=seen["keys"] or (),
        epoch=epoch,
        term=term,
        idle=[(name, seconds) for name, seconds in seen["idle"] or ()],
        locks=seen["locks"] or (),
    )


def tasks(connection: Connection[Any]) -> list[Task]:
    """Return every task."""
    rows = connection.execute(
        "select id, org_id, idempotency_key, payload ->> 'token', max_attempts,"
        " extract(epoch from created_at)::float8 from orchestrator.task order by id"
    )
    return [Task(*row) for row in rows]


def attempts(connection: Connection[Any]) -> list[Attempt]:
    """Return every attempt."""
    rows = connection.execute(
        "select task_id, attempt, status, final, dispatch_key, org_id,"
        " extract(epoch from claimed_at)::float8, extract(epoch from ended_at)::float8, worker"
        " from orchestrator.task_attempt order by ended_at"
    )
    return [Attempt(*row) for row in rows]


def places(connection: Connection[Any]) -> dict[int, list[str]]:
    """Return where the unfinished tasks are."""
    rows = connection.execute(
        "select task_id, 'staged' from orchestrator.staging_queue"
        " union all select task_id, 'scheduled' from orchestrator.scheduled_queue"
        " union all select task_id, case when claim_id is null then 'ready' else 'claimed' end"
        " from orchestrator.task_queue"
    )
    found: dict[int, list[str]] = defaultdict(list)
    for task, place in rows:
        found[task].append(place)
    return dict(found)


def ticks(connection: Connection[Any]) -> list[Tick]:
    """Return every tick that did something."""
    rows = connection.execute(
        "select admit_seq, epoch, extract(epoch from at)::float8, tick_us / 1e6::float8,"
        " orgs, counts from orchestrator.tick_log where queue = 1 order by admit_seq, at"
    )
    found = []
    for seq, epoch, at, took_s, orgs, counts in rows:
        admitted: dict[str, int] = defaultdict(int)
        for org, count in zip(orgs, counts, strict=True):
            if count:
                admitted[org] += count
        found.append(Tick(seq, epoch, at, took_s, dict(admitted)))
    return found


def terms(connection: Connection[Any]) -> list[Term]:
    """Return every election."""
    rows = connection.execute(
        "select epoch, term::text, timeline, extract(epoch from at)::float8"
        " from orchestrator.leadership_log where queue = 1 and event = 'elected' order by id"
    )
    return [Term(*row) for row in rows]


def repairs(connection: Connection[Any]) -> list[str]:
    """Return what leaders found wrong and repaired."""
    rows = connection.execute(
        "select reason from orchestrator.leadership_log where event = 'repaired' order by id"
    )
    return [reason for (reason,) in rows]


def effects(connection: Connection[Any]) -> list[str]:
    """Return what transactions wrote beside their tasks."""
    return [name for (name,) in connection.execute("select name from effect")]
