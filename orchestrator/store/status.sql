-- Questions of operators: read-only, and none of them costs O(backlog).

-- name: schema_present
select to_regclass('orchestrator.schema_version') is not null;

-- name: schema_revision
-- By way of JSON, because a schema from before 0007 has no such column.
select version_num, to_jsonb(v) ->> 'oldest' from orchestrator.schema_version v order by version_num;

-- name: steady
-- For one transaction: plans walk indexes whatever the statistics say, and nothing runs for long.
select set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true),
       set_config('plan_cache_mode', 'force_generic_plan', true), set_config('statement_timeout', '30s', true);

-- name: waiting
-- These tasks, and since when each could have run.
select t.id, t.org_id, t.workload, t.priority, t.name, greatest(t.created_at, t.run_at),
       extract(epoch from clock_timestamp() - greatest(t.created_at, t.run_at))::float8
  from orchestrator.task t
 where t.queue = %(queue)s and t.id = any (%(ids)s::bigint[]);

-- name: enqueued
-- How many tasks were enqueued in the last seconds. Ids grow with time, near enough: the first id of
-- the window is found by bisection, some thirty probes, and only the window is counted.
with recursive window_start as materialized (
  select clock_timestamp() - %(window_s)s::float8 * interval '1 second' as at
), bisection as (
  select 0::bigint as low, coalesce(pg_sequence_last_value('orchestrator.task_id'), 0) + 1 as high
  union all
  select case when p.inside then b.low else b.middle + 1 end, case when p.inside then b.middle else b.high end
    from (select low, high, (low + high) / 2 as middle from bisection where low < high) b
   cross join lateral (
     select coalesce((select created_at from orchestrator.task
                       where queue = %(queue)s and id >= b.middle
                       order by queue, id limit 1) > (select at from window_start), true) as inside) p
)
select count(*) from orchestrator.task
 where queue = %(queue)s and id >= (select max(low) from bisection)
   and created_at > (select at from window_start);

-- name: ended
-- How the attempts of the last seconds ended. No index knows their time: the first transaction id of
-- the window is found by bisection over the index of the leader's feed.
with recursive window_start as materialized (
  select clock_timestamp() - %(window_s)s::float8 * interval '1 second' as at
), bisection as (
  select 0::bigint as low, pg_snapshot_xmax(pg_current_snapshot())::text::bigint as high
  union all
  select case when p.inside then b.low else b.middle + 1 end, case when p.inside then b.middle else b.high end
    from (select low, high, (low + high) / 2 as middle from bisection where low < high) b
   cross join lateral (
     -- Of whatever queue: the clock is the same for all, and a rare queue would be long to find.
     select coalesce((select ended_at from orchestrator.task_attempt
                       where xid >= b.middle::text::xid8
                       order by xid limit 1) > (select at from window_start), true) as inside) p
)
select status, final, count(*)::integer from orchestrator.task_attempt
 where xid >= (select max(low)::text::xid8 from bisection) and queue = %(queue)s
   and ended_at > (select at from window_start)
 group by status, final;

-- name: leases
-- Leases by claim call: those that run, and those whose time is over and that nobody took back yet.
select count(*) filter (where expires_at > clock_timestamp())::integer,
       count(*) filter (where expires_at <= clock_timestamp())::integer
  from orchestrator.lease where queue = %(queue)s;

-- name: scheduled
-- How many tasks are not due yet, counted up to a bound, and when the next one is.
select (select count(*)::integer
          from (select from orchestrator.scheduled_queue where queue = %(queue)s limit %(most)s) bounded),
       (select run_at from orchestrator.scheduled_queue where queue = %(queue)s order by queue, run_at limit 1);

-- name: last_tick
-- The last tick that did something.
select at, extract(epoch from clock_timestamp() - at)::float8, admitted, settled, tick_us
  from orchestrator.tick_log where queue = %(queue)s order by queue, at desc limit 1;

-- name: org_places
-- What one org has in each queue: staged (counted up to a bound), ready, claimed.
select q.name,
       (select count(*)::integer
          from (select from orchestrator.staging_queue
                 where queue = q.id and org_id = %(org)s limit %(most)s) bounded),
       (select count(*)::integer from orchestrator.task_queue
         where queue = q.id and org_id = %(org)s and claim_id is null),
       (select count(*)::integer from orchestrator.task_queue
         where queue = q.id and org_id = %(org)s and claim_id is not null)
  from orchestrator.queue q order by q.name;

-- name: staged_page
-- A page of staged tasks in the order of the key, each with whether it has the wanted name and age.
select s.org_id, s.workload, s.neg_priority, s.task_id,
       %(name)s::text is null and %(older_than_s)s::float8 is null
         or exists (select from orchestrator.task t
                     where t.queue = %(queue)s and t.id = s.task_id and (%(name)s::text is null or t.name = %(name)s)
                       and (%(older_than_s)s::float8 is null
                            or t.created_at < clock_timestamp() - %(older_than_s)s::float8 * interval '1 second'))
  from (select org_id, workload, neg_priority, task_id from orchestrator.staging_queue
         where queue = %(queue)s and (%(org)s::text is null or org_id = %(org)s)
           and (org_id, workload, neg_priority, task_id)
             > (%(after_org)s, %(after_workload)s, %(after_priority)s::smallint, %(after_id)s::bigint)
         order by queue, org_id, workload, neg_priority, task_id limit %(limit)s) s
 order by s.org_id, s.workload, s.neg_priority, s.task_id;

-- name: scheduled_page
-- Scheduled tasks of an org or name, or enqueued so long ago, by id: O(scheduled).
select s.task_id from orchestrator.scheduled_queue s
 where s.queue = %(queue)s and s.task_id > %(after_id)s and (%(org)s::text is null or s.org_id = %(org)s)
   and (%(name)s::text is null and %(older_than_s)s::float8 is null
        or exists (select from orchestrator.task t
                    where t.queue = %(queue)s and t.id = s.task_id and (%(name)s::text is null or t.name = %(name)s)
                      and (%(older_than_s)s::float8 is null
                           or t.created_at < clock_timestamp() - %(older_than_s)s::float8 * interval '1 second')))
 order by s.task_id limit %(limit)s;

-- name: admitted_page
-- Admitted tasks of an org or name, or enqueued so long ago, by id: O(in-flight).
select s.task_id from orchestrator.task_queue s
 where s.queue = %(queue)s and s.task_id > %(after_id)s and (%(org)s::text is null or s.org_id = %(org)s)
   and (%(claimed)s::boolean is null or (s.claim_id is not null) = %(claimed)s)
   and (%(name)s::text is null and %(older_than_s)s::float8 is null
        or exists (select from orchestrator.task t
                    where t.queue = %(queue)s and t.id = s.task_id and (%(name)s::text is null or t.name = %(name)s)
                      and (%(older_than_s)s::float8 is null
                           or t.created_at < clock_timestamp() - %(older_than_s)s::float8 * interval '1 second')))
 order by s.task_id limit %(limit)s;

-- name: server
-- What `doctor` judges, asked before anything of ours is touched.
select current_setting('server_version_num')::integer, current_setting('server_version'), pg_is_in_recovery(),
       current_setting('transaction_read_only')::boolean, pg_backend_pid(), inet_client_addr() is null,
       current_setting('autovacuum')::boolean and current_setting('track_counts')::boolean,
       current_setting('max_connections')::integer
         - current_setting('superuser_reserved_connections')::integer
         - coalesce(current_setting('reserved_connections', true)::integer, 0),
       (select count(*)::integer from pg_stat_activity where backend_type = 'client backend'), clock_timestamp();
