-- What each org of a queue holds and waits for: read-only, and none of it costs O(backlog).

-- name: staged_flows
-- Every flow with staged work: its oldest task, and its tasks counted up to `most`; past that the
-- leader's own count, which is behind while nothing is admitted. The recursion is a loose index
-- scan: one step for each priority of a flow, whatever lies between.
with recursive band as (
  (select org_id, workload, neg_priority, task_id from orchestrator.staging_queue
    where queue = %(queue)s
    order by queue, org_id, workload, neg_priority, task_id limit 1)
  union all
  select n.org_id, n.workload, n.neg_priority, n.task_id
    from band b
   cross join lateral (
     select org_id, workload, neg_priority, task_id from orchestrator.staging_queue
      where queue = %(queue)s and (org_id, workload, neg_priority) > (b.org_id, b.workload, b.neg_priority)
      order by queue, org_id, workload, neg_priority, task_id limit 1) n
), flow as materialized (
  select org_id, workload, min(task_id) as oldest from band group by org_id, workload
)
select f.org_id, f.workload, f.oldest,
       case when c.counted < %(most)s then c.counted else greatest(c.counted, coalesce(s.backlog, 0)) end,
       c.counted < %(most)s
  from flow f
 cross join lateral (
   select count(*) as counted
     from (select from orchestrator.staging_queue
            where queue = %(queue)s and org_id = f.org_id and workload = f.workload limit %(most)s) bounded) c
  left join orchestrator.flow_state s on s.queue = %(queue)s and s.org_id = f.org_id and s.workload = f.workload;

-- name: slots
-- Who holds the slots, of up to `most` admitted tasks (of all where that is NULL): O(in-flight) or O(most).
select org_id, count(*) filter (where claim_id is null)::integer, count(*) filter (where claim_id is not null)::integer,
       min(task_id) filter (where claim_id is null)
  from (select org_id, claim_id, task_id from orchestrator.task_queue
         where queue = %(queue)s order by queue, dispatch_key limit %(most)s::bigint) admitted
 group by org_id;

-- name: slots_as_of_tick
-- Who holds the slots as the leader counted them in a tick of a moment ago. What is ready lies above the floors: at
-- most about a ready window, however much is claimed.
with ready as (
  select org_id, count(*)::integer as tasks, min(task_id) as oldest
    from ((select org_id, task_id from orchestrator.task_queue
            where queue = %(queue)s and claim_id is null
              and dispatch_key >= greatest((select pg_sequence_last_value(%(floor)s::regclass)), %(main_min)s::bigint)
            order by queue, dispatch_key limit %(most)s::bigint)
          union all
          (select org_id, task_id from orchestrator.task_queue
            where queue = %(queue)s and claim_id is null
              and dispatch_key >= (select coalesce(pg_sequence_last_value(%(express_floor)s::regclass), -9223372036854775808))
              and dispatch_key < %(main_min)s::bigint
            order by queue, dispatch_key limit %(most)s::bigint)) above
   group by org_id
)
select s.org_id, coalesce(r.tasks, 0), greatest(0, s.in_flight + s.express_in_flight - coalesce(r.tasks, 0)), r.oldest
  from orchestrator.org_state s
  left join ready r using (org_id)
 where s.queue = %(queue)s and s.in_flight + s.express_in_flight > 0;

-- name: terms
-- On which terms these orgs are admitted: their own settings, else their tier's, else the default tier's.
select u.org_id, t.name, coalesce(c.weight, t.weight, 1), coalesce(c.burst_max, t.burst_max), c.paused_at is not null
  from unnest(%(orgs)s::text[]) as u(org_id)
  left join orchestrator.org_config c on c.org_id = u.org_id
  left join orchestrator.tier t on t.name = coalesce(c.tier, 'standard');
