-- What screens show: read-only, and none of it costs O(backlog) or O(in-flight).

-- name: one_snapshot
-- The first statement of a transaction that only looks.
set transaction isolation level repeatable read, read only;

-- name: pace
-- How much each step of the last seconds admitted and freed, by what the ticks wrote down: what was in
-- flight before and was admitted since, less what is left. Ticks that admit nothing write nothing.
select (floor(extract(epoch from at))::bigint / %(step_s)s::bigint) * %(step_s)s::bigint, sum(admitted)::bigint,
       coalesce(sum(greatest(0, before + admitted - in_flight)), 0)::bigint
  from (select at, admitted, in_flight, lag(in_flight) over (order by at) as before from orchestrator.tick_log
         where queue = %(queue)s and at > clock_timestamp() - %(window_s)s::float8 * interval '1 second') ticks
 group by 1 order by 1;

-- name: ended
-- How many admitted tasks ended in each step, by the newest `among` attempts of all queues; how many those
-- are, and when the oldest of them ended.
with newest as materialized (
  select queue, ended_at, dispatch_key from orchestrator.task_attempt order by xid desc limit %(among)s
)
select b.count, b.oldest, s.at, s.ended
  from (select count(*)::integer as count, min(ended_at) as oldest from newest) b
  left join (select (floor(extract(epoch from ended_at))::bigint / %(step_s)s::bigint) * %(step_s)s::bigint as at, count(*)::bigint as ended
               from newest where queue = %(queue)s and dispatch_key is not null group by 1) s on true;

-- name: org_pace
-- How many tasks of one org each step of the last seconds admitted, and the clock. What a tick frees it does
-- not write down by org.
select n.now, s.at, s.admitted
  from (select clock_timestamp() as now) n
  left join (
    select (floor(extract(epoch from l.at))::bigint / %(step_s)s::bigint) * %(step_s)s::bigint as at, sum(u.count)::bigint as admitted
      from orchestrator.tick_log l
     cross join lateral unnest(l.orgs, l.counts) as u(org_id, count)
     where l.queue = %(queue)s and l.at > clock_timestamp() - %(window_s)s::float8 * interval '1 second'
       and u.org_id = %(org)s
     group by 1) s on true;

-- name: ticks
-- The last ticks that did something, the newest first: the decision log.
select at, extract(epoch from clock_timestamp() - at)::float8, epoch, settled, admitted, ready, window_max, in_flight, tick_us,
       orgs, workloads, counts
  from orchestrator.tick_log where queue = %(queue)s order by queue, at desc limit %(limit)s;

-- name: tick_time
-- How long the ticks of the last seconds took, of up to `most` of them.
select count(*)::integer, coalesce(percentile_cont(0.5) within group (order by tick_us), 0)::float8,
       coalesce(percentile_cont(0.99) within group (order by tick_us), 0)::float8
  from (select tick_us from orchestrator.tick_log
         where queue = %(queue)s and at > clock_timestamp() - %(window_s)s::float8 * interval '1 second'
         order by queue, at desc limit %(most)s) recent;

-- name: workers
-- Workers of a queue, as their leases name them (of the newest `most` of the queue) and as their listening
-- sessions announce themselves: how many hold a lease that runs, how many listen, and room for how many tasks.
select (select count(distinct worker)::integer
          from (select worker from orchestrator.lease
                 where queue = %(queue)s and expires_at > clock_timestamp()
                 order by expires_at desc limit %(most)s) running),
       count(*)::integer, coalesce(sum(substring(application_name from 'c=([0-9]{1,6})')::integer), 0)::integer
  from pg_stat_activity
 where datname = current_database() and application_name like %(pattern)s;

-- name: elections
-- How many terms began in the last seconds, and the clock. Terms are few, and the newest come first.
select count(*)::integer, clock_timestamp()
  from (select at from orchestrator.leadership_log
         where queue = %(queue)s and event = 'elected' order by queue, id desc limit %(most)s) newest
 where at > clock_timestamp() - %(window_s)s::float8 * interval '1 second';

-- name: org_flows
-- What the leader knew of an org's flows a moment ago, in every queue: its slots, and by workload the staged
-- tasks and what one of them takes.
select q.name, s.in_flight + s.express_in_flight, f.workload, f.backlog, f.cost_us
  from orchestrator.queue q
 cross join lateral (select in_flight, express_in_flight from orchestrator.org_state
                      where queue = q.id and org_id = %(org)s offset 0) s
  left join lateral (select workload, backlog, cost_us from orchestrator.flow_state
                      where queue = q.id and org_id = %(org)s offset 0) f on true
 order by q.name, f.workload;

-- name: tasks_of_org
-- The newest tasks of an org among the newest `among` of the queue, with where each is: as `list_page` tells
-- it, which has no such bound: to give it one makes its long walks slower by half, or this one by several times.
-- OFFSET 0: made while the tables were empty, a plan would read all of them for each task. `+ 0` as in `place`.
select t.id, t.name, t.org_id, t.workload, t.priority, t.created_at,
       coalesce(s.place, c.place, r.place, 'ended'), coalesce(s.attempt, c.attempt, r.attempt, e.attempt, 0),
       case when s.place is null and c.place is null and r.place is null then e.status end
  from (select * from (select queue, id, name, org_id, workload, priority, created_at from orchestrator.task
                        where queue = %(queue)s order by queue desc, id desc limit %(among)s) newest
         where org_id = %(org)s order by id desc limit %(limit)s) t
  left join lateral (select 'staged' as place, attempt from orchestrator.staging_queue s
                      where s.queue = t.queue and s.org_id = t.org_id and s.workload = t.workload
                        and s.neg_priority in (-t.priority, -10, -11, -12) and s.task_id = t.id offset 0) s on true
  left join lateral (select 'scheduled' as place, attempt from orchestrator.scheduled_queue c
                      where c.queue + 0 = t.queue and c.task_id = t.id offset 0) c on true
  left join lateral (select case when claim_id is null then 'ready' else 'claimed' end as place, attempt
                       from orchestrator.task_queue r where r.queue = t.queue and r.task_id = t.id offset 0) r on true
  left join lateral (select status, attempt from orchestrator.task_attempt e
                      where e.queue = t.queue and e.task_id = t.id and final
                      order by ended_at desc limit 1) e on true
 order by t.id desc;

-- name: audit
-- The newest changes, of one object or of all, among the newest `among`.
select at, actor, verb, object, change::text
  from (select id, at, actor, verb, object, change from orchestrator.audit_log order by id desc limit %(among)s) newest
 where %(object)s::text is null or object = %(object)s
 order by id desc limit %(limit)s;
