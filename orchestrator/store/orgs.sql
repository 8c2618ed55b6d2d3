-- Configuration: tiers, workloads, queues, orgs.

-- name: tiers
select name, weight, rank, burst_max, backlog_max from orchestrator.tier order by rank, name;

-- name: workloads
select name, share, rank, express, express_max_s from orchestrator.workload order by rank, name;

-- name: orgs_changed
-- Orgs configured since the snapshot `prev`, with the snapshot this statement saw.
select pg_current_snapshot()::text, c.org_id, c.tier, c.weight, c.burst_max, c.paused_at is not null
  from (select) as one
  left join orchestrator.org_config c
    on c.xid >= pg_snapshot_xmax(%(prev)s::pg_snapshot)
    or c.xid = any (array(select pg_snapshot_xip(%(prev)s::pg_snapshot)));

-- name: orgs_page
select org_id, tier, weight, burst_max, paused_at, paused_reason, backlog_max from orchestrator.org_config
 where org_id > %(after)s order by org_id limit %(limit)s;

-- name: org
select org_id, tier, weight, burst_max, paused_at, paused_reason, backlog_max
  from orchestrator.org_config where org_id = %(org)s;

-- name: config_version
-- Read before the configuration itself: a change in between makes the version differ, never agree.
select coalesce(pg_sequence_last_value('orchestrator.config_version'), 0),
       coalesce(pg_sequence_last_value('orchestrator.config_deletes'), 0), pg_current_snapshot()::text;

-- name: set_org
-- Sets what is given and keeps the rest; an unset flag leaves the column alone.
insert into orchestrator.org_config as c (org_id, tier, weight, burst_max, backlog_max)
values (%(org)s, coalesce(%(tier)s, 'standard'), %(weight)s, %(burst_max)s, %(backlog_max)s)
on conflict (org_id) do update
   set tier = coalesce(%(tier)s, c.tier),
       weight = case when %(set_weight)s then %(weight)s else c.weight end,
       burst_max = case when %(set_burst_max)s then %(burst_max)s else c.burst_max end,
       backlog_max = case when %(set_backlog_max)s then %(backlog_max)s else c.backlog_max end
returning org_id, tier, weight, burst_max, paused_at, paused_reason, backlog_max;

-- name: pause_org
insert into orchestrator.org_config as c (org_id, paused_at, paused_reason)
values (%(org)s, clock_timestamp(), %(reason)s)
on conflict (org_id) do update
   set paused_at = coalesce(c.paused_at, clock_timestamp()), paused_reason = %(reason)s
returning org_id, tier, weight, burst_max, paused_at, paused_reason, backlog_max;

-- name: resume_org
-- Resumes an org that is configured; one that is not was never paused.
update orchestrator.org_config set paused_at = null, paused_reason = null
 where org_id = %(org)s
returning org_id, tier, weight, burst_max, paused_at, paused_reason, backlog_max;

-- name: import_orgs
-- Sets many orgs in one transaction; what a line leaves out becomes the tier's default.
insert into orchestrator.org_config (org_id, tier, weight, burst_max)
select * from unnest(%(orgs)s::text[], %(tiers)s::text[], %(weights)s::integer[], %(burst_maxes)s::integer[])
on conflict (org_id) do update
   set tier = excluded.tier, weight = excluded.weight, burst_max = excluded.burst_max;

-- name: orgs_named
select org_id, tier, weight, burst_max, paused_at, paused_reason, backlog_max
  from orchestrator.org_config where org_id = any (%(orgs)s::text[]);

-- name: set_tier
insert into orchestrator.tier as t (name, weight, rank, burst_max, backlog_max)
values (%(name)s, coalesce(%(weight)s, 1), coalesce(%(rank)s, 5), %(burst_max)s, %(backlog_max)s)
on conflict (name) do update
   set weight = coalesce(%(weight)s, t.weight), rank = coalesce(%(rank)s, t.rank),
       burst_max = case when %(set_burst_max)s then %(burst_max)s else t.burst_max end,
       backlog_max = case when %(set_backlog_max)s then %(backlog_max)s else t.backlog_max end
returning name, weight, rank, burst_max, backlog_max;

-- name: set_workload
insert into orchestrator.workload as w (name, share, rank, express, express_max_s)
values (%(name)s, coalesce(%(share)s, 1), coalesce(%(rank)s, 5), coalesce(%(express)s, false), %(express_max_s)s)
on conflict (name) do update
   set share = coalesce(%(share)s, w.share), rank = coalesce(%(rank)s, w.rank),
       express = coalesce(%(express)s, w.express),
       express_max_s = case when %(set_express_max_s)s then %(express_max_s)s else w.express_max_s end
returning name, share, rank, express, express_max_s;

-- name: set_queue
insert into orchestrator.queue as q (name, policy, cost_mode, capacity, headroom, express_reserve, ready_max, kappa, max_wait_s)
values (%(name)s, coalesce(%(policy)s, 'weighted'), coalesce(%(cost_mode)s, 'time'), %(capacity)s, %(headroom)s,
        %(express_reserve)s, %(ready_max)s, coalesce(%(kappa)s, 100), %(max_wait_s)s)
on conflict (name) do update
   set policy = coalesce(%(policy)s, q.policy),
       cost_mode = coalesce(%(cost_mode)s, q.cost_mode),
       capacity = case when %(set_capacity)s then %(capacity)s else q.capacity end,
       headroom = case when %(set_headroom)s then %(headroom)s else q.headroom end,
       express_reserve = case when %(set_express_reserve)s then %(express_reserve)s else q.express_reserve end,
       ready_max = case when %(set_ready_max)s then %(ready_max)s else q.ready_max end,
       kappa = coalesce(%(kappa)s, q.kappa),
       max_wait_s = case when %(set_max_wait_s)s then %(max_wait_s)s else q.max_wait_s end
returning id, name, policy, cost_mode, capacity, headroom, express_reserve, ready_max, kappa, max_wait_s, paused_at is not null;

-- name: pause_queue
update orchestrator.queue set paused_at = case when %(paused)s then coalesce(paused_at, clock_timestamp()) end
 where name = %(name)s
returning id, name, policy, cost_mode, capacity, headroom, express_reserve, ready_max, kappa, max_wait_s, paused_at is not null;

-- name: queue_in_flight
select count(*) filter (where claim_id is null)::integer, count(*) filter (where claim_id is not null)::integer
  from orchestrator.task_queue where queue = %(queue)s;

-- name: audit
insert into orchestrator.audit_log (actor, verb, object, change)
values (%(actor)s, %(verb)s, %(object)s, %(change)s::jsonb);
