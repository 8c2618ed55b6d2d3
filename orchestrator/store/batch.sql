-- Cancel and retry for many tasks of one queue. A row that somebody else holds is passed over, so that
-- a batch never waits for the leader, and the leader for no longer than one statement.

-- name: steady
-- For one transaction: plans that fetch by key, whatever the statistics say.
select set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true);

-- name: cancel_waiting
-- Ends those of the tasks that are staged, scheduled or ready, under their row locks.
with wanted as materialized (
  select id, org_id, workload, priority from orchestrator.task
   where queue = %(queue)s and id = any (%(ids)s::bigint[])
), staged_rows as materialized (
  select s.ctid as place
    from wanted w
    join orchestrator.staging_queue s
      on s.queue = %(queue)s and s.org_id = w.org_id and s.workload = w.workload
     and s.neg_priority in (-w.priority, -10, -11, -12) and s.task_id = w.id
   order by s.task_id
     for update of s skip locked
), staged as (
  delete from orchestrator.staging_queue s using staged_rows r where s.ctid = r.place
  returning s.task_id, s.org_id, s.workload, s.attempt
), scheduled_rows as materialized (
  select s.ctid as place
    from wanted w join orchestrator.scheduled_queue s on s.queue = %(queue)s and s.task_id = w.id
   order by s.task_id
     for update of s skip locked
), scheduled as (
  delete from orchestrator.scheduled_queue s using scheduled_rows r where s.ctid = r.place
  returning s.task_id, s.org_id, s.workload, s.attempt
), ready_rows as materialized (
  select q.ctid as place
    from wanted w join orchestrator.task_queue q on q.queue = %(queue)s and q.task_id = w.id
   where q.claim_id is null
   order by q.dispatch_key
     for update of q skip locked
), ready as (
  delete from orchestrator.task_queue q using ready_rows r where q.ctid = r.place
  returning q.task_id, q.org_id, q.workload, q.attempt, q.dispatch_key,
            q.charged_us, q.weight, q.share, q.reserved
), gone as materialized (
  select task_id, org_id, workload, attempt, null::bigint as dispatch_key,
         0::bigint as charged_us, 1 as weight, 1 as share, false as reserved
    from staged
  union all select task_id, org_id, workload, attempt, null, 0, 1, 1, false from scheduled
  union all select task_id, org_id, workload, attempt, dispatch_key, charged_us, weight, share, reserved from ready
), logged as (
  insert into orchestrator.task_attempt (queue, task_id, attempt, status, final, dispatch_key, org_id, workload,
                                         charged_us, cost_us, weight, share, reserved, error)
  select %(queue)s, task_id, attempt, 'cancelled', true, dispatch_key, org_id, workload,
         charged_us, 0, weight, share, reserved, %(reason)s
    from gone
), freed as (
  delete from orchestrator.idempotency_key k using gone g
   where k.queue = %(queue)s and k.task_id = g.task_id
), woken as materialized (
  select pg_notify(%(channel)s, '')
   where pg_sequence_last_value(%(doze)s::regclass) >= 3 and exists (select from gone)
)
select task_id, (select count(*) from woken) from gone;

-- name: lock_tasks
-- Serialises retries of the same tasks; whether they have ended is read in a later statement.
select id from orchestrator.task
 where queue = %(queue)s and id = any (%(ids)s::bigint[])
 order by id
   for no key update;

-- name: restage_ended
-- Puts those of the tasks that have ended back in staging with their attempts counted anew, unless
-- their idempotency key is held by another.
with ended as materialized (
  select t.id, t.org_id, t.workload, t.priority, t.critical, t.idempotency_key, t.digest
    from orchestrator.task t
   where t.queue = %(queue)s and t.id = any (%(ids)s::bigint[])
     and exists (select from orchestrator.task_attempt e
                  where e.queue = t.queue and e.task_id = t.id and e.final)
     and not exists (select from orchestrator.staging_queue s
                      where s.queue = t.queue and s.org_id = t.org_id and s.workload = t.workload
                        and s.neg_priority in (-t.priority, -10, -11, -12) and s.task_id = t.id)
     and not exists (select from orchestrator.scheduled_queue s where s.queue = t.queue and s.task_id = t.id)
     and not exists (select from orchestrator.task_queue q where q.queue = t.queue and q.task_id = t.id)
), keyed as (
  insert into orchestrator.idempotency_key (queue, org_id, key, task_id, digest)
  select %(queue)s, org_id, idempotency_key, id, digest
    from ended where idempotency_key is not null order by org_id, idempotency_key
      on conflict (queue, org_id, key) do nothing
  returning task_id
), staged as (
  insert into orchestrator.staging_queue (queue, org_id, workload, neg_priority, task_id)
  select %(queue)s, org_id, workload, case when critical then -12 else -priority end, id
    from ended where idempotency_key is null or id in (select task_id from keyed)
  returning task_id
), woken as materialized (
  select pg_notify(%(channel)s, '')
   where pg_sequence_last_value(%(doze)s::regclass) >= 2 and exists (select from staged)
)
select task_id, (select count(*) from woken) from staged;
