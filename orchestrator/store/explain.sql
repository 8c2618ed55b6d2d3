-- The facts of an explanation, all in one snapshot. None of these costs O(backlog): positions are counted up
-- to a bound, flows are walked by a loose index scan, of the log of ticks only the latest are read.

-- name: frozen
-- Everything below sees one instant, whatever moves meanwhile.
set transaction isolation level repeatable read, read only;

-- name: steady
-- For this transaction: plans walk indexes whatever the statistics say, and nothing runs for long.
select set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_material', 'off', true), set_config('jit', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true),
       set_config('statement_timeout', '10s', true);

-- name: task
-- The task's record, and in which queue; joins the few queues so that the primary key serves.
select q.id, clock_timestamp(), t.org_id, t.workload, t.priority, t.max_attempts
  from orchestrator.queue q
  join orchestrator.task t on t.queue = q.id and t.id = %(id)s;

-- name: queue
-- The queue's settings, and its line as of the last tick.
select q.name, q.policy, q.cost_mode, q.capacity, q.headroom, q.express_reserve,
       exists (select from orchestrator.workload where express), q.paused_at,
       s.virtual_time, s.express_virtual_time, s.cost_us,
       (select at from orchestrator.tick_log where queue = %(queue)s order by queue, at desc limit 1),
       (select at from orchestrator.leadership_log where queue = %(queue)s order by queue, id desc limit 1)
  from orchestrator.queue q
  join orchestrator.queue_state s on s.queue = q.id
 where q.id = %(queue)s;

-- name: place
-- The one place the task is in; no row = it has ended. In staging it stands under its own priority, under 10
-- when it is tried again, under 11 once the age bound lifted it, or under 12 if it is critical. `+ 0`: with an
-- index on (queue, …) any scheduled task would be looked at.
select 'staged' as place, attempt, neg_priority, null::timestamptz as run_at, null::bigint as dispatch_key,
       null::timestamptz as claimed_at, null::text as worker, null::timestamptz as lease_expires_at
  from orchestrator.staging_queue
 where queue = %(queue)s and org_id = %(org)s and workload = %(workload)s
   and neg_priority in (-%(priority)s::smallint, -10, -11, -12) and task_id = %(id)s
union all
select 'scheduled', attempt, neg_priority, run_at, null, null, null, null
  from orchestrator.scheduled_queue where queue + 0 = %(queue)s and task_id = %(id)s
union all
select case when q.claim_id is null then 'ready' else 'claimed' end, q.attempt, -q.priority, null, q.dispatch_key,
       q.claimed_at, l.worker, l.expires_at
  from orchestrator.task_queue q
  left join lateral (select worker, expires_at from orchestrator.lease
                      where queue = %(queue)s and claim_id = q.claim_id offset 0) l on true
 where q.queue = %(queue)s and q.task_id = %(id)s;

-- name: last_attempt
select attempt, status, final, ended_at, worker, error
  from orchestrator.task_attempt
 where queue = %(queue)s and task_id = %(id)s
 order by ended_at desc, attempt desc limit 1;

-- name: org
-- On which terms the org is admitted, and where it stood as of a tick of a moment ago.
select coalesce(c.weight, t.weight, 1), coalesce(t.rank, 0), coalesce(c.burst_max, t.burst_max), c.paused_at, c.paused_reason,
       s.tag, s.virtual_time, s.eligible, s.express_tag, s.express_virtual_time, s.express_eligible,
       coalesce(s.in_flight + s.express_in_flight, 0)
  from (select) as one
  left join orchestrator.org_config c on c.org_id = %(org)s
  left join orchestrator.tier t on t.name = coalesce(c.tier, 'standard')
  left join orchestrator.org_state s on s.queue = %(queue)s and s.org_id = %(org)s;

-- name: org_flows
-- The org's flows with staged work: counted up to a bound, past that the leader's own count; and since when
-- the first of each priority has waited. A loose index scan: one step for each priority of a flow.
with recursive band as (
  (select workload, neg_priority, task_id, attempt from orchestrator.staging_queue
    where queue = %(queue)s and org_id = %(org)s
    order by queue, org_id, workload, neg_priority, task_id limit 1)
  union all
  select n.workload, n.neg_priority, n.task_id, n.attempt
    from band b
   cross join lateral (
     select workload, neg_priority, task_id, attempt from orchestrator.staging_queue
      where queue = %(queue)s and org_id = %(org)s and (workload, neg_priority) > (b.workload, b.neg_priority)
      order by queue, org_id, workload, neg_priority, task_id limit 1) n
), first as materialized (
  select b.workload, min(greatest(t.created_at, t.run_at, a.ended_at)) as since
    from (select * from band limit %(bands_max)s) b
    left join orchestrator.task t on t.queue = %(queue)s and t.id = b.task_id
    left join lateral (select max(ended_at) as ended_at from orchestrator.task_attempt
                        where queue = %(queue)s and task_id = b.task_id) a on true
   group by b.workload
)
select f.workload,
       case when c.counted < %(most)s then c.counted else greatest(c.counted, s.backlog) end,
       coalesce(s.cost_us, 0), coalesce(s.tag, 0), coalesce(s.express_tag, 0), w.share, w.rank,
       w.express and (w.express_max_s is null or coalesce(s.cost_us, 0) <= w.express_max_s * 1e6),
       coalesce(s.backlog, 0) = 0, c.critical, f.since
  from first f
 cross join lateral (
   -- In the order of the key, so that critical tasks are counted first.
   select count(*) as counted, count(*) filter (where neg_priority = -12) as critical
     from (select neg_priority from orchestrator.staging_queue
            where queue = %(queue)s and org_id = %(org)s and workload = f.workload
            order by queue, org_id, workload, neg_priority, task_id limit %(most)s) bounded) c
  join orchestrator.workload w on w.name = f.workload
  left join lateral (select * from orchestrator.flow_state
                      where queue = %(queue)s and org_id = %(org)s and workload = f.workload offset 0) s on true;

-- name: flow
-- The task's own flow, whether or not anything waits in it.
select w.name, 0::bigint, coalesce(s.cost_us, 0), coalesce(s.tag, 0), coalesce(s.express_tag, 0), w.share, w.rank,
       w.express and (w.express_max_s is null or coalesce(s.cost_us, 0) <= w.express_max_s * 1e6),
       coalesce(s.backlog, 0) = 0, w.express, (w.express_max_s * 1e6)::bigint
  from orchestrator.workload w
  left join orchestrator.flow_state s on s.queue = %(queue)s and s.org_id = %(org)s and s.workload = w.name
 where w.name = %(workload)s;

-- name: position
-- The tasks of the flow that go before this one, counted up to a bound.
select count(*)
  from (select from orchestrator.staging_queue
         where queue = %(queue)s and org_id = %(org)s and workload = %(workload)s
           and (neg_priority, task_id) < (%(neg_priority)s::smallint, %(id)s::bigint)
         limit %(most)s) bounded;

-- name: bands
-- For a position beyond the bound: each priority of the flow with its first and last id and its tasks, counted
-- up to a bound; and the leader's count of the whole flow.
with recursive band as (
  (select neg_priority, task_id as lowest from orchestrator.staging_queue
    where queue = %(queue)s and org_id = %(org)s and workload = %(workload)s
    order by queue, org_id, workload, neg_priority, task_id limit 1)
  union all
  select n.neg_priority, n.task_id
    from band b
   cross join lateral (
     select neg_priority, task_id from orchestrator.staging_queue
      where queue = %(queue)s and org_id = %(org)s and workload = %(workload)s and neg_priority > b.neg_priority
      order by queue, org_id, workload, neg_priority, task_id limit 1) n
)
select b.neg_priority, b.lowest,
       (select task_id from orchestrator.staging_queue
         where queue = %(queue)s and org_id = %(org)s and workload = %(workload)s and neg_priority = b.neg_priority
         order by queue desc, org_id desc, workload desc, neg_priority desc, task_id desc limit 1),
       (select count(*)
          from (select from orchestrator.staging_queue
                 where queue = %(queue)s and org_id = %(org)s and workload = %(workload)s and neg_priority = b.neg_priority
                 limit %(most)s) bounded),
       coalesce((select backlog from orchestrator.flow_state
                  where queue = %(queue)s and org_id = %(org)s and workload = %(workload)s), 0)
  from band b;

-- name: line
-- The flows with staged work, up to a bound, with their orgs' terms and tags. Backlogs are the leader's counts;
-- what it has yet to hear of is counted a little way, and so are critical tasks, where there are any. LATERAL …
-- OFFSET 0 looks each flow up by its key: joined, stale statistics made one pass over all orgs for each flow
-- (measured: 110 ms instead of 12).
with recursive flow as (
  (select org_id, workload from orchestrator.staging_queue
    where queue = %(queue)s
    order by queue, org_id, workload limit 1)
  union all
  select n.org_id, n.workload from flow f
   cross join lateral (
     select org_id, workload from orchestrator.staging_queue
      where queue = %(queue)s and (org_id, workload) > (f.org_id, f.workload)
      order by queue, org_id, workload limit 1) n
)
select f.org_id, coalesce(c.weight, t.weight, 1), coalesce(t.rank, 0), coalesce(c.burst_max, t.burst_max),
       c.paused_at is not null, coalesce(o.in_flight + o.express_in_flight, 0),
       o.tag, o.virtual_time, o.eligible, o.express_tag, o.express_virtual_time, o.express_eligible,
       f.workload,
       case when s.backlog > 0 then greatest(s.backlog, k.critical)
            else (select count(*)
                    from (select from orchestrator.staging_queue
                           where queue = %(queue)s and org_id = f.org_id and workload = f.workload limit %(most)s) bounded)
       end,
       coalesce(s.cost_us, 0), coalesce(s.tag, 0), coalesce(s.express_tag, 0), w.share, w.rank,
       w.express and (w.express_max_s is null or coalesce(s.cost_us, 0) <= w.express_max_s * 1e6),
       coalesce(s.backlog, 0) = 0, k.critical
  from (select org_id, workload from flow limit %(flows_max)s) f
  join orchestrator.workload w on w.name = f.workload
  left join orchestrator.org_config c on c.org_id = f.org_id
  left join orchestrator.tier t on t.name = coalesce(c.tier, 'standard')
  left join lateral (select * from orchestrator.org_state
                      where queue = %(queue)s and org_id = f.org_id offset 0) o on true
  left join lateral (select * from orchestrator.flow_state
                      where queue = %(queue)s and org_id = f.org_id and workload = f.workload offset 0) s on true
 cross join lateral (
   select case when (select exists (select from orchestrator.staging_queue where neg_priority = -12))
               then (select count(*)
                       from (select from orchestrator.staging_queue
                              where queue = %(queue)s and org_id = f.org_id and workload = f.workload and neg_priority = -12
                              limit %(most)s) bounded)
               else 0 end as critical offset 0) k;

-- name: slots
-- Who holds the slots, counted up to a bound: all, claimed, ready for anybody, ready of express work, of the
-- reserve, of the org; and some of the org's, those that run first.
select count(*)::integer, count(*) filter (where claim_id is not null)::integer,
       count(*) filter (where claim_id is null and dispatch_key >= %(main_min)s)::integer,
       count(*) filter (where claim_id is null and dispatch_key < %(main_min)s)::integer,
       count(*) filter (where reserved)::integer,
       count(*) filter (where org_id = %(org)s)::integer,
       coalesce((array_agg(task_id order by claim_id is null, dispatch_key) filter (where org_id = %(org)s))[1:%(named)s], '{}')
  from (select claim_id, dispatch_key, reserved, org_id, task_id from orchestrator.task_queue
         where queue = %(queue)s limit %(most)s) held;

-- name: asked
-- Which of these claimed tasks are asked to yield.
select t.id
  from unnest(%(ids)s::bigint[]) as t(id)
 cross join lateral (select dispatch_key, claim_id from orchestrator.task_queue
                      where queue = %(queue)s and task_id = t.id and claim_id is not null offset 0) q
 cross join lateral (select yielding from orchestrator.lease
                      where queue = %(queue)s and claim_id = q.claim_id offset 0) l
 where q.dispatch_key = any (l.yielding);

-- name: claimed_first
-- The ready tasks that are claimed before this key, counted up to a bound.
select count(*)::integer
  from (select from orchestrator.task_queue
         where queue = %(queue)s and dispatch_key < %(key)s and claim_id is null limit %(most)s) bounded;

-- name: pulses
-- The latest ticks that did something, newest first: how many each admitted, and how many of this org.
select extract(epoch from %(at)s - k.at)::float8, k.admitted,
       coalesce((select sum(u.admitted) from unnest(k.orgs, k.counts) as u(org_id, admitted)
                  where u.org_id = %(org)s), 0)::integer,
       k.ready, k.window_max, k.in_flight
  from orchestrator.tick_log k
 where k.queue = %(queue)s and k.at > %(at)s - %(window_s)s * interval '1 second'
 order by k.queue desc, k.at desc limit %(most)s;

-- name: recent
-- What those ticks admitted, by flow, the busiest flows first.
select a.org_id, a.workload, a.admitted, coalesce(s.cost_us, 0)
  from (select u.org_id, u.workload, sum(u.admitted)::integer as admitted
          from (select k.orgs, k.workloads, k.counts from orchestrator.tick_log k
                 where k.queue = %(queue)s and k.at > %(at)s - %(window_s)s * interval '1 second'
                 order by k.queue desc, k.at desc limit %(most)s) k
         cross join lateral unnest(k.orgs, k.workloads, k.counts) as u(org_id, workload, admitted)
         group by u.org_id, u.workload
         order by admitted desc limit %(flows_max)s) a
  left join lateral (select cost_us from orchestrator.flow_state
                      where queue = %(queue)s and org_id = a.org_id and workload = a.workload offset 0) s on true;
