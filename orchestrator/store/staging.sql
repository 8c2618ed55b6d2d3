-- Enqueue: the task, its idempotency key and the place it waits in, in one statement.

-- name: enqueue
-- Inserts what is new; an item whose key is taken comes back with created = false and is not stored.
-- Keys go in sorted order, so that two batches cannot deadlock. Wakes the leader only if it dozes:
-- NOTIFY takes a lock that every commit of the database needs. A column that no item sets is NULL as a whole:
-- `unnest` fills it up. A critical task waits under -12, above all others of its flow.
with item as materialized (
  -- `due` is decided once: two looks at the clock could leave a task in neither place.
  select nextval('orchestrator.task_id') as id, i.*, coalesce(i.due_at <= clock_timestamp(), true) as due
    from (select *,
                 coalesce(run_at, case when delay_s > 0 then clock_timestamp() + delay_s * interval '1 second' end) as due_at,
                 coalesce(expires_at, clock_timestamp() + expires_in_s * interval '1 second', 'infinity') as dead_at,
                 case when critical <> 0 then -12 else -priority end as neg_priority
            from unnest(%(ord)s::bigint[], %(org)s::text[], %(workload)s::text[], %(priority)s::bigint[],
                        %(name)s::text[], %(payload)s::text[], %(max_attempts)s::bigint[], %(timeout_s)s::float8[],
                        %(run_at)s::timestamptz[], %(delay_s)s::float8[], %(expires_at)s::timestamptz[],
                        %(expires_in_s)s::float8[], %(key)s::text[], %(digest)s::bytea[], %(headers)s::text[], %(critical)s::bigint[])
              as u(ord, org, workload, priority, name, payload, max_attempts, timeout_s,
                   run_at, delay_s, expires_at, expires_in_s, key, digest, headers, critical)
           order by ord) i
), keyed as (
  insert into orchestrator.idempotency_key (queue, org_id, key, task_id, digest)
  select %(queue)s, org, key, id, digest from item where key is not null order by org collate "C", key collate "C"
  on conflict (queue, org_id, key) do nothing
  returning task_id
), fresh as materialized (
  select * from item where key is null or id in (select task_id from keyed)
), stored as (
  insert into orchestrator.task (queue, id, org_id, workload, priority, name, payload, max_attempts, timeout_s,
                                 run_at, expires_at, idempotency_key, digest, headers, critical)
  select %(queue)s, id, org, workload, priority, name, payload::jsonb, max_attempts, timeout_s,
         due_at, dead_at, key, digest, headers::jsonb, critical <> 0
    from fresh
), staged as (
  insert into orchestrator.staging_queue (queue, org_id, workload, neg_priority, task_id, expires_at)
  select %(queue)s, org, workload, neg_priority, id, dead_at
    from fresh where due
), scheduled as (
  insert into orchestrator.scheduled_queue (queue, task_id, run_at, org_id, workload, neg_priority, expires_at)
  select %(queue)s, id, due_at, org, workload, neg_priority, dead_at
    from fresh where not due
), woken as materialized (
  -- Of a single task the leader is told: see `enqueue_due`.
  select pg_notify(%(channel)s, coalesce(
           (select concat_ws(' ', hashtextextended(min(workload), hashtextextended(min(org), 0)), min(neg_priority), min(id))
              from fresh having count(*) = 1 and bool_and(due and critical = 0)), ''))
   where pg_sequence_last_value(%(doze)s::regclass) >= 2 and exists (select from fresh)
)
-- Not a join of item and fresh: with hash and merge joins pinned off it would be quadratic.
select ord, id, key is null or id in (select task_id from keyed), (select count(*) from woken)
  from item
 order by ord;

-- name: enqueue_keyless
-- Inserts a batch of which no item has a key; returns their ids in one row, in the order of the items. It is
-- `enqueue` without what only keys need. One value stands for a whole column in which all are alike.
with item as materialized (
  select nextval('orchestrator.task_id') as id, i.*, coalesce(i.due_at <= clock_timestamp(), true) as due
    from (select org, coalesce(workload, (%(workload)s::text[])[1]) as workload,
                 coalesce(priority, (%(priority)s::bigint[])[1]) as priority,
                 coalesce(name, (%(name)s::text[])[1]) as name, payload,
                 coalesce(max_attempts, (%(max_attempts)s::bigint[])[1]) as max_attempts, timeout_s, headers,
                 coalesce(critical, (%(critical)s::bigint[])[1]) <> 0 as critical,
                 coalesce(run_at, case when delay_s > 0 then clock_timestamp() + delay_s * interval '1 second' end) as due_at,
                 coalesce(expires_at, clock_timestamp() + expires_in_s * interval '1 second', 'infinity') as dead_at
            from unnest(%(org)s::text[], %(workload)s::text[], %(priority)s::bigint[], %(name)s::text[],
                        %(payload)s::text[], %(max_attempts)s::bigint[], %(timeout_s)s::float8[],
                        %(run_at)s::timestamptz[], %(delay_s)s::float8[], %(expires_at)s::timestamptz[],
                        %(expires_in_s)s::float8[], %(headers)s::text[], %(critical)s::bigint[])
              as u(org, workload, priority, name, payload, max_attempts, timeout_s,
                   run_at, delay_s, expires_at, expires_in_s, headers, critical)
          offset 0) i
), stored as (
  insert into orchestrator.task (queue, id, org_id, workload, priority, name, payload, max_attempts, timeout_s,
                                 run_at, expires_at, headers, critical)
  select %(queue)s, id, org, workload, priority, name, payload::jsonb, max_attempts, timeout_s,
         due_at, dead_at, headers::jsonb, critical
    from item
), staged as (
  insert into orchestrator.staging_queue (queue, org_id, workload, neg_priority, task_id, expires_at)
  select %(queue)s, org, workload, case when critical then -12 else -priority end, id, dead_at
    from item where due
), scheduled as (
  insert into orchestrator.scheduled_queue (queue, task_id, run_at, org_id, workload, neg_priority, expires_at)
  select %(queue)s, id, due_at, org, workload, case when critical then -12 else -priority end, dead_at
    from item where not due
)
select array_agg(id order by id), case when pg_sequence_last_value(%(doze)s::regclass) >= 2 then pg_notify(%(channel)s, '')::text end
  from item;

-- name: enqueue_due
-- Inserts one task that is due and has no key: the usual case, without what only the others need. The leader is
-- woken by what the statement returns, which costs less than a `with` of its own; it is told of the task, which
-- spares it a look (`wakeup/hint.py`), unless others of the org may have to make way for it.
with stored as (
  insert into orchestrator.task (queue, id, org_id, workload, priority, name, payload, max_attempts, timeout_s,
                                 expires_at, headers, critical)
  values (%(queue)s, nextval('orchestrator.task_id'), %(org)s, %(workload)s, %(priority)s, %(name)s, %(payload)s::text::jsonb,
          %(max_attempts)s, %(timeout_s)s, coalesce(%(expires_at)s::timestamptz, clock_timestamp() + %(expires_in_s)s::float8 * interval '1 second', 'infinity'),
          %(headers)s::text::jsonb, %(critical)s)
  returning id, expires_at
), staged as (
  insert into orchestrator.staging_queue (queue, org_id, workload, neg_priority, task_id, expires_at)
  select %(queue)s, %(org)s, %(workload)s, case when %(critical)s then -12 else -%(priority)s end, id, expires_at from stored
)
select id, case when pg_sequence_last_value(%(doze)s::regclass) >= 2
                then pg_notify(%(channel)s, case when not %(critical)s
                       then concat_ws(' ', hashtextextended(%(workload)s, hashtextextended(%(org)s, 0)), -%(priority)s, id)
                       else '' end)::text end
  from stored;

-- name: holders
-- Who holds these keys: read in a statement after the one that met them, so that it sees the winner.
select u.ord, k.task_id, k.digest
  from unnest(%(ord)s::integer[], %(org)s::text[], %(key)s::text[]) as u(ord, org, key)
  join orchestrator.idempotency_key k on k.queue = %(queue)s and k.org_id = u.org and k.key = u.key;

-- name: depth
-- How many tasks of an org wait, counted up to a bound; those whose deadline has passed do not, though they
-- stand here until a leader ends them. Nor does it look at many times that number of them.
select count(*)::integer
  from (select from (select expires_at from orchestrator.staging_queue
                      where queue = %(queue)s and org_id = %(org)s limit 10 * %(most)s::bigint) staged
         where expires_at > (select clock_timestamp()) limit %(most)s) waiting;

-- name: queue_id
select id from orchestrator.queue where name = %(name)s;

-- name: workload_known
select true from orchestrator.workload where name = %(name)s;
