-- What a run did, read from the tables afterwards: for the demonstration and for benchmarks.

-- name: standing
-- One line an org: staged, in flight, ended, and the waits of its tasks that started in the last seconds.
with ended as (
  select org_id, count(*) filter (where final) as ended from orchestrator.task_attempt
   where queue = %(queue)s group by org_id
), recent as (
  select a.org_id, percentile_cont(array[0.5, 0.95]) within group (order by extract(epoch from a.claimed_at - t.created_at)) as dwell,
         count(*) as started
    from orchestrator.task_attempt a
    join orchestrator.task t on t.queue = a.queue and t.id = a.task_id
   where a.queue = %(queue)s and a.claimed_at > clock_timestamp() - %(seconds)s::float8 * interval '1 second'
   group by a.org_id
)
select s.org_id, coalesce(f.backlog, 0)::bigint, coalesce(n.in_flight, 0)::integer, coalesce(e.ended, 0)::bigint,
       coalesce(r.started, 0)::bigint, r.dwell[1]::float8, r.dwell[2]::float8
  from orchestrator.org_state s
  left join (select org_id, count(*) as backlog from orchestrator.staging_queue
              where queue = %(queue)s group by org_id) f using (org_id)
  left join (select org_id, count(*) as in_flight from orchestrator.task_queue
              where queue = %(queue)s group by org_id) n using (org_id)
  left join ended e using (org_id)
  left join recent r using (org_id)
 where s.queue = %(queue)s
 order by s.org_id;

-- name: in_flight
-- Unfinished admitted tasks by org, in one snapshot.
select org_id, count(*)::integer from orchestrator.task_queue where queue = %(queue)s group by org_id;

-- name: verdict
-- Everything that was enqueued against everything that ended: lost, finished more than once, unfinished.
with ends as (
  select task_id, count(*) filter (where final) as finals, count(*) filter (where status = 'succeeded') as successes
    from orchestrator.task_attempt where queue = %(queue)s group by task_id
), places as (
  select task_id from orchestrator.staging_queue where queue = %(queue)s
  union all select task_id from orchestrator.scheduled_queue where queue = %(queue)s
  union all select task_id from orchestrator.task_queue where queue = %(queue)s
)
select count(*)::bigint,
       count(*) filter (where coalesce(e.finals, 0) = 0 and p.task_id is null)::bigint,
       count(*) filter (where e.successes > 1 or e.finals > 1)::bigint,
       count(p.task_id)::bigint
  from orchestrator.task t
  left join ends e on e.task_id = t.id
  left join places p on p.task_id = t.id
 where t.queue = %(queue)s;

-- name: lifecycles
-- When each task was enqueued, when it first started and when that attempt ended, by org.
select t.org_id, extract(epoch from t.created_at)::float8, extract(epoch from a.claimed_at)::float8,
       extract(epoch from a.ended_at)::float8
  from orchestrator.task t
 cross join lateral (
   select claimed_at, ended_at from orchestrator.task_attempt
    where queue = t.queue and task_id = t.id and claimed_at is not null
    order by claimed_at limit 1) a
 where t.queue = %(queue)s
 order by t.id;

-- name: first_tick
-- The first admission that a later epoch committed, and the clock it is measured by.
select extract(epoch from min(at))::float8 from orchestrator.tick_log
 where queue = %(queue)s and epoch > %(epoch)s and admitted > 0;

-- name: clock
select extract(epoch from clock_timestamp())::float8;
