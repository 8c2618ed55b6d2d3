-- The shadow policy of a queue, and what the leader reports of it.

-- name: set
-- Replaces the policy of a queue and forgets the report of the one before; an empty array clears it.
-- The row's trigger moves config_version on at the commit, so that the leader reads it.
with forgotten as (
  delete from orchestrator.shadow_report where queue = %(queue)s
), audited as (
  insert into orchestrator.audit_log (actor, verb, object, change)
  values (%(actor)s, %(verb)s, %(name)s, jsonb_build_object('settings', %(settings)s::text[]))
)
insert into orchestrator.shadow_policy (queue, settings, set_by) values (%(queue)s, %(settings)s::text[], %(actor)s)
on conflict (queue) do update
   set settings = excluded.settings, set_at = clock_timestamp(), set_by = excluded.set_by
returning settings, set_at, set_by;

-- name: policy
select settings, set_at, set_by from orchestrator.shadow_policy
 where queue = %(queue)s and cardinality(settings) > 0;

-- name: record
-- Only about the policy that is still set: a leader that was deposed, or that has not read a change yet, says
-- nothing about another one.
insert into orchestrator.shadow_report as r (queue, set_at, started_at, updated_at, report, failure)
select p.queue, p.set_at, clock_timestamp() - %(elapsed_s)s::float8 * interval '1 second', clock_timestamp(),
       %(report)s::jsonb, %(failure)s
  from orchestrator.shadow_policy p
 where p.queue = %(queue)s and p.set_at = %(set_at)s and cardinality(p.settings) > 0
on conflict (queue) do update
   set set_at = excluded.set_at, started_at = excluded.started_at, updated_at = excluded.updated_at,
       report = coalesce(excluded.report, r.report), failure = excluded.failure;

-- name: report
select r.started_at, r.updated_at, r.report::text, r.failure
  from orchestrator.shadow_report r
  join orchestrator.shadow_policy p on p.queue = r.queue and p.set_at = r.set_at
 where r.queue = %(queue)s;
