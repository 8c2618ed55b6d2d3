-- How much may wait: asked only where somebody has a bound.

-- name: bounded
-- Whether any org or tier has a bound at all.
select exists (select from orchestrator.tier where backlog_max is not null)
    or exists (select from orchestrator.org_config where backlog_max is not null);

-- name: backlogs
-- The bound of each org, and how many of its tasks wait in the queue, counted up to it; of an org without a
-- bound, nothing is counted.
select o.org, o.most, case when o.most is not null then
         (select count(*)::integer from (select from orchestrator.staging_queue s
                                          where s.queue = %(queue)s and s.org_id = o.org limit o.most) waiting) end
  from (select u.org, case when c.backlog_max is not null then c.backlog_max else t.backlog_max end as most
          from unnest(%(orgs)s::text[]) as u(org)
          left join orchestrator.org_config c on c.org_id = u.org
          left join orchestrator.tier t on t.name = coalesce(c.tier, %(default_tier)s)) o;

-- name: held
-- Which of these idempotency keys an unfinished task holds.
select u.ord from unnest(%(ord)s::integer[], %(org)s::text[], %(key)s::text[]) as u(ord, org, key)
  join orchestrator.idempotency_key k on k.queue = %(queue)s and k.org_id = u.org and k.key = u.key;

-- name: capped_depth
-- How many tasks of an org wait, counted up to a bound, where the org was at its burst_max in a tick of
-- a moment ago; NULL where it was not.
select case when coalesce(s.in_flight >= coalesce(c.burst_max, t.burst_max), false) then
         (select count(*)::integer from (select from orchestrator.staging_queue w
                                          where w.queue = q.id and w.org_id = %(org)s limit %(most)s) waiting) end
  from orchestrator.queue q
  left join orchestrator.org_config c on c.org_id = %(org)s
  left join orchestrator.tier t on t.name = coalesce(c.tier, %(default_tier)s)
  left join orchestrator.org_state s on s.queue = q.id and s.org_id = %(org)s
 where q.name = %(queue)s;
