-- What arrived in a stretch of the past, and how long it took: read in pages, each of them a short
-- read-only transaction, so that no snapshot is held while a day is read.
-- Instants come as microseconds since the start of the stretch, %(since)s.

-- name: begin
begin transaction isolation level read committed read only;

-- name: steady
-- For one transaction: plans walk indexes whatever the statistics say, and nothing runs for long.
select set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true),
       set_config('max_parallel_workers_per_gather', '0', true), set_config('statement_timeout', '30s', true);

-- name: commit
commit;

-- name: stretch
-- The last seconds, and the last transaction id before the first attempt that ended in them: no index
-- knows when attempts ended, so it is found by bisection over the index of the leader's feed.
with recursive span as materialized (
  select at - %(window_s)s::float8 * interval '1 second' as since, at as until from (select clock_timestamp() as at) now
), bisection as (
  select 0::bigint as low, pg_snapshot_xmax(pg_current_snapshot())::text::bigint as high
  union all
  select case when p.inside then b.low else b.middle + 1 end, case when p.inside then b.middle else b.high end
    from (select low, high, (low + high) / 2 as middle from bisection where low < high) b
   cross join lateral (
     -- Of whatever queue: the clock is the same for all, and a rare queue would be long to find.
     select coalesce((select ended_at from orchestrator.task_attempt
                       where xid >= b.middle::text::xid8
                       order by xid limit 1) > (select since from span), true) as inside) p
)
select since, (extract(epoch from until - since) * 1000000)::bigint, (select greatest(0, max(low) - 1) from bisection) from span;

-- name: staged
-- A page of the tasks that wait for admission, in the order of the key: since when, and what a task of
-- the flow is expected to take. A retry waits since the attempt before it ended.
select s.org_id, s.workload, s.neg_priority, s.task_id, t.priority, t.critical,
       (extract(epoch from coalesce(p.ended_at, greatest(t.created_at, t.run_at)) - %(since)s::timestamptz) * 1000000)::bigint,
       f.cost_us
  from (select org_id, workload, neg_priority, task_id from orchestrator.staging_queue
         where queue = %(queue)s
           and (org_id, workload, neg_priority, task_id)
             > (%(after_org)s, %(after_workload)s, %(after_priority)s::smallint, %(after_id)s::bigint)
         order by queue, org_id, workload, neg_priority, task_id limit %(limit)s) s
 cross join lateral (select priority, critical, created_at, run_at from orchestrator.task
                      where queue = %(queue)s and id = s.task_id offset 0) t
  left join lateral (select ended_at from orchestrator.task_attempt
                      where queue = %(queue)s and task_id = s.task_id and (cost_us > 0 or final)
                      order by ended_at desc limit 1) p on true
  left join lateral (select cost_us from orchestrator.flow_state
                      where queue = %(queue)s and org_id = s.org_id and workload = s.workload offset 0) f on true
 order by s.org_id, s.workload, s.neg_priority, s.task_id;

-- name: admitted
-- A page of the tasks that are admitted and unfinished, by key; as `staged`, and for how long each has
-- been claimed, NULL if it is not.
select q.dispatch_key, q.task_id, q.org_id, q.workload, t.priority, t.critical,
       (extract(epoch from coalesce(p.ended_at, greatest(t.created_at, t.run_at)) - %(since)s::timestamptz) * 1000000)::bigint,
       f.cost_us, (extract(epoch from clock_timestamp() - q.claimed_at) * 1000000)::bigint,
       (extract(epoch from q.claimed_at - %(since)s::timestamptz) * 1000000)::bigint
  from (select dispatch_key, task_id, org_id, workload, claimed_at from orchestrator.task_queue
         where queue = %(queue)s and dispatch_key > %(after)s
         order by queue, dispatch_key limit %(limit)s) q
 cross join lateral (select priority, critical, created_at, run_at from orchestrator.task
                      where queue = %(queue)s and id = q.task_id offset 0) t
  left join lateral (select ended_at from orchestrator.task_attempt
                      where queue = %(queue)s and task_id = q.task_id and (cost_us > 0 or final)
                      order by ended_at desc limit 1) p on true
  left join lateral (select cost_us from orchestrator.flow_state
                      where queue = %(queue)s and org_id = q.org_id and workload = q.workload offset 0) f on true
 order by q.dispatch_key;

-- name: ended
-- A page of the attempts that took worker time, by transaction, whole transactions at a time: since when
-- each waited, when it was claimed, when it ended, what it took. A retry waits since the attempt before
-- it ended; if that one was the last, somebody asked for another, nobody wrote down when: then since its
-- claim.
select a.xid, a.task_id, a.org_id, a.workload, t.priority, t.critical,
       (extract(epoch from case when p.final then a.claimed_at
                                else coalesce(p.ended_at, greatest(t.created_at, t.run_at)) end
                           - %(since)s::timestamptz) * 1000000)::bigint,
       (extract(epoch from a.claimed_at - %(since)s::timestamptz) * 1000000)::bigint,
       (extract(epoch from a.ended_at - %(since)s::timestamptz) * 1000000)::bigint, a.cost_us
  from (select xid::text::bigint as xid, task_id, org_id, workload, claimed_at, ended_at, cost_us
          from orchestrator.task_attempt
         where queue = %(queue)s and xid > %(after)s::bigint::text::xid8 and ended_at > %(since)s::timestamptz
           and cost_us > 0 and claimed_at is not null
         order by task_attempt.xid fetch first (%(limit)s::bigint) rows with ties) a
 cross join lateral (select priority, critical, created_at, run_at from orchestrator.task
                      where queue = %(queue)s and id = a.task_id offset 0) t
  left join lateral (select ended_at, final from orchestrator.task_attempt
                      where queue = %(queue)s and task_id = a.task_id and (cost_us > 0 or final) and ended_at < a.ended_at
                      order by ended_at desc limit 1) p on true;

-- name: expected_us
-- What a task of the queue takes, for flows of which none was measured; 0 is unknown.
select cost_us from orchestrator.queue_state where queue = %(queue)s;
