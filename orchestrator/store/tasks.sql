-- One task by its id: where it is, its history, cancel and retry.
-- Ids are unique across queues; `queue` is looked up once, then every statement names it. In staging a task
-- stands under its own priority, or under 11 once the age bound lifted it, and 10 when it is tried again; a
-- critical one under 12.

-- name: find
-- The task's record; joins the few queues so that the primary key serves.
select t.queue, q.name, t.id, t.name, t.org_id, t.workload, t.priority, t.max_attempts, t.timeout_s,
       t.payload::text, t.headers::text, t.created_at, t.run_at, nullif(t.expires_at, 'infinity'), t.idempotency_key
  from orchestrator.queue q
  join orchestrator.task t on t.queue = q.id and t.id = %(id)s;

-- name: org_of
select t.org_id from orchestrator.queue q join orchestrator.task t on t.queue = q.id and t.id = %(id)s;

-- name: place
-- The one place the task is in, read in one snapshot; no row = it has ended (or its record only). `+ 0`:
-- with an index on (queue, …) any scheduled task would be looked at.
select 'staged' as place, attempt, null::timestamptz as run_at, null::text as worker, null::timestamptz as lease_expires_at
  from orchestrator.staging_queue
 where queue = %(queue)s and org_id = %(org)s and workload = %(workload)s
   and neg_priority in (-%(priority)s::smallint, -10, -11, -12) and task_id = %(id)s
union all
select 'scheduled', attempt, run_at, null, null
  from orchestrator.scheduled_queue where queue + 0 = %(queue)s and task_id = %(id)s
union all
select case when q.claim_id is null then 'ready' else 'claimed' end, q.attempt, null, l.worker, l.expires_at
  from orchestrator.task_queue q
  left join lateral (select worker, expires_at from orchestrator.lease
                      where queue = %(queue)s and claim_id = q.claim_id offset 0) l on true
 where q.queue = %(queue)s and q.task_id = %(id)s;

-- name: history
select attempt, status, final, claimed_at, ended_at,
       cost_us / 1000000.0::float8, worker, error
  from orchestrator.task_attempt
 where queue = %(queue)s and task_id = %(id)s
 order by ended_at, attempt;

-- name: ended_status
-- How the task ended last; no row = it never did.
select status from orchestrator.task_attempt
 where queue = %(queue)s and task_id = %(id)s and final
 order by ended_at desc limit 1;

-- name: cancel_waiting
-- Ends a task that is staged, scheduled or ready; a claimed one is left to `cancel_claimed`.
with staged as (
  delete from orchestrator.staging_queue
   where queue = %(queue)s and org_id = %(org)s and workload = %(workload)s
     and neg_priority in (-%(priority)s::smallint, -10, -11, -12) and task_id = %(id)s
  returning attempt
), scheduled as (
  delete from orchestrator.scheduled_queue where queue + 0 = %(queue)s and task_id = %(id)s
  returning attempt
), ready as (
  delete from orchestrator.task_queue
   where queue = %(queue)s and task_id = %(id)s and claim_id is null
  returning attempt, dispatch_key, charged_us, weight, share, reserved
), gone as materialized (
  select attempt, null::bigint as dispatch_key, 0::bigint as charged_us, 1 as weight, 1 as share, false as reserved
    from staged
  union all select attempt, null, 0, 1, 1, false from scheduled
  union all select attempt, dispatch_key, charged_us, weight, share, reserved from ready
), logged as (
  insert into orchestrator.task_attempt (queue, task_id, attempt, status, final, dispatch_key, org_id, workload,
                                         charged_us, cost_us, weight, share, reserved, error)
  select %(queue)s, %(id)s, attempt, 'cancelled', true, dispatch_key, %(org)s, %(workload)s,
         charged_us, 0, weight, share, reserved, %(reason)s
    from gone
), freed as (
  delete from orchestrator.idempotency_key k using gone
   where k.queue = %(queue)s and k.task_id = %(id)s
), woken as materialized (
  select pg_notify(%(channel)s, '') where pg_sequence_last_value(%(doze)s::regclass) >= 3
)
select (select count(*) from woken) from gone;

-- name: claim_of
-- The claim that holds the task now.
select claim_id, dispatch_key from orchestrator.task_queue
 where queue = %(queue)s and task_id = %(id)s and claim_id is not null;

-- name: cancel_claimed
-- Leaves word in the lease, and tells the worker to look: it reads it with its next heartbeat, which comes at
-- once if it hears of it. Nack and reap obey it.
update orchestrator.lease
   set cancelled = case when %(key)s::bigint = any (cancelled) then cancelled else cancelled || %(key)s::bigint end
 where queue = %(queue)s and claim_id = %(claim_id)s
returning pg_notify(%(control)s, claim_id::text);

-- name: lock_task
-- Serialises retries of one task; whether it has ended is read in a later statement.
select id from orchestrator.task where queue = %(queue)s and id = %(id)s for no key update;

-- name: take_key
-- Takes the task's idempotency key again for a replay.
insert into orchestrator.idempotency_key (queue, org_id, key, task_id, digest)
select queue, org_id, idempotency_key, id, digest
  from orchestrator.task where queue = %(queue)s and id = %(id)s
    on conflict (queue, org_id, key) do nothing
returning task_id;

-- name: restage
-- Puts an ended task back in staging with its attempts counted anew; a deadline still ahead holds, one
-- that has passed does not: whoever replays the task wants it to run.
with staged as (
  insert into orchestrator.staging_queue (queue, org_id, workload, neg_priority, task_id, expires_at)
  select queue, org_id, workload, case when critical then -12 else -priority end, id,
         case when expires_at > clock_timestamp() then expires_at else 'infinity' end
    from orchestrator.task where queue = %(queue)s and id = %(id)s
  returning task_id
), woken as materialized (
  select pg_notify(%(channel)s, '') where pg_sequence_last_value(%(doze)s::regclass) >= 2
)
select task_id, (select count(*) from woken) from staged;

-- name: list_page
-- A page of tasks, newest first, filtered; keyset by id.
select t.id, t.name, t.org_id, t.workload, t.priority, t.created_at, t.place, t.attempt, t.status
  from (
    select t.queue, t.id, t.name, t.org_id, t.workload, t.priority, t.created_at,
           coalesce(s.place, c.place, r.place, 'ended') as place,
           coalesce(s.attempt, c.attempt, r.attempt, e.attempt, 0) as attempt,
           case when s.place is null and c.place is null and r.place is null then e.status end as status
      from orchestrator.task t
      left join lateral (select 'staged' as place, attempt from orchestrator.staging_queue s
                          where s.queue = t.queue and s.org_id = t.org_id and s.workload = t.workload
                            and s.neg_priority in (-t.priority, -10, -11, -12) and s.task_id = t.id) s on true
      left join lateral (select 'scheduled' as place, attempt from orchestrator.scheduled_queue c
                          where c.queue = t.queue and c.task_id = t.id) c on true
      left join lateral (select case when claim_id is null then 'ready' else 'claimed' end as place, attempt
                           from orchestrator.task_queue r where r.queue = t.queue and r.task_id = t.id) r on true
      left join lateral (select status, attempt from orchestrator.task_attempt e
                          where e.queue = t.queue and e.task_id = t.id and final
                          order by ended_at desc limit 1) e on true
     where t.queue = %(queue)s and t.id < %(before)s
       and (%(org)s::text is null or t.org_id = %(org)s)
       and (%(name)s::text is null or t.name = %(name)s)) t
 where (%(place)s::text is null or t.place = %(place)s)
   and (%(status)s::text is null or t.status = %(status)s)
 order by t.id desc
 limit %(limit)s;
