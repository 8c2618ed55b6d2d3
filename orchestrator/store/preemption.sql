-- Preemption: critical tasks that wait, tasks that run, and the word that is left in their leases.
-- Nothing here is asked while no critical task waits.

-- name: critical_flows
-- The next flows that hold critical tasks, each counted up to a bound: a loose scan of an index that holds
-- nothing else. `+ 0`: the primary key, which begins with the queue, would read every staged row. Only those
-- of which the feed up to a snapshot has told: it tells the rest, which would count twice.
with recursive flow as (
  (select org_id, workload from orchestrator.staging_queue
    where neg_priority = -12 and queue + 0 = %(queue)s and (org_id, workload) > (%(after_org)s, %(after_workload)s)
    order by org_id, workload limit 1)
  union all
  select n.org_id, n.workload from flow f
   cross join lateral (
     select org_id, workload from orchestrator.staging_queue
      where neg_priority = -12 and queue + 0 = %(queue)s and (org_id, workload) > (f.org_id, f.workload)
      order by org_id, workload limit 1) n
)
select f.org_id, f.workload, c.waiting
  from (select org_id, workload from flow limit %(limit)s) f
 cross join lateral (
   select count(*)::integer as waiting from (
     select from orchestrator.staging_queue
      where queue = %(queue)s and org_id = f.org_id and workload = f.workload and neg_priority = -12
        and pg_visible_in_snapshot(xid, %(counted)s::pg_snapshot)
      limit %(most)s) s) c;

-- name: count_critical
-- How many critical tasks some flows hold, each counted up to a bound; of those of which the feed has told.
select f.org_id, f.workload, c.waiting
  from unnest(%(orgs)s::text[], %(workloads)s::text[]) as f(org_id, workload)
 cross join lateral (
   select count(*)::integer as waiting from (
     select from orchestrator.staging_queue
      where queue = %(queue)s and org_id = f.org_id and workload = f.workload and neg_priority = -12
        and pg_visible_in_snapshot(xid, %(counted)s::pg_snapshot)
      limit %(most)s) s) c;

-- name: waiting
-- The critical tasks at the head of some flows, in their order, each with its own priority; up to a bound.
-- One whose deadline has passed waits for nothing.
select f.org_id, f.workload, t.priority
  from unnest(%(orgs)s::text[], %(workloads)s::text[], %(mosts)s::bigint[]) as f(org_id, workload, most)
 cross join lateral (
   select task_id from orchestrator.staging_queue
    where queue = %(queue)s and org_id = f.org_id and workload = f.workload and neg_priority = -12
      and expires_at > (select clock_timestamp())
    order by queue, org_id, workload, neg_priority, task_id limit f.most) s
 cross join lateral (select priority from orchestrator.task
                      where queue = %(queue)s and id = s.task_id offset 0) t;

-- name: running
-- The tasks of some orgs that are claimed and not critical, of the next leases after a given one; by
-- `keys_max` tasks at the most, as `refresh` looks: what a look costs does not depend on how much runs.
with looked as materialized (
  select claim_id, dispatch_keys, cancelled, yielding
    from (select claim_id, dispatch_keys, cancelled, yielding, own, sum(own) over (order by claim_id) as keys
            from (select claim_id, dispatch_keys, cancelled, yielding,
                         -- About as many as there are, told without fetching the array.
                         greatest(1, pg_column_size(dispatch_keys) / 8 - 2) as own
                    from orchestrator.lease
                   where queue = %(queue)s and claim_id > %(after)s
                   order by queue, claim_id limit %(leases_max)s) next_leases) counted
   where keys <= %(keys_max)s or keys = own
)
select (select claim_id from looked order by claim_id desc limit 1),
       r.org_id, r.claim_id, r.dispatch_key, r.task_id, r.priority, r.claimed_at, r.asked, r.cancelled
  from (select) as one
  left join (
    select t.*, l.claim_id, t.dispatch_key = any (l.yielding) as asked, t.dispatch_key = any (l.cancelled) as cancelled
      from looked l
     cross join lateral unnest(l.dispatch_keys) as k(dispatch_key)
     cross join lateral (select org_id, dispatch_key, task_id, priority, claimed_at from orchestrator.task_queue
                          where queue = %(queue)s and dispatch_key = k.dispatch_key and claim_id = l.claim_id
                            and org_id = any (%(orgs)s::text[]) offset 0) t
     cross join lateral (select critical from orchestrator.task
                          where queue = %(queue)s and id = t.task_id offset 0) d
     where not d.critical) r on true;

-- name: asked_orgs
-- The orgs of which running tasks are asked to yield; reads every lease of the queue, once a term.
select distinct t.org_id
  from orchestrator.lease l
 cross join lateral unnest(l.yielding) as k(dispatch_key)
 cross join lateral (select org_id from orchestrator.task_queue
                      where queue = %(queue)s and dispatch_key = k.dispatch_key and claim_id = l.claim_id offset 0) t
 where l.queue = %(queue)s and l.yielding <> '{}';

-- name: tell
-- Leaves word in leases: these tasks should yield, or need not any more; and has their workers look. SKIP
-- LOCKED: the leader waits for nobody; a lease that is being extended or given back is told at the next look.
-- A task that has ended meanwhile leaves a word that means nothing.
with told as (
  select claim_id, array_agg(dispatch_key) filter (where ask <> 0) as more, array_agg(dispatch_key) as keys
    from unnest(%(claims)s::uuid[], %(keys)s::bigint[], %(asks)s::bigint[]) as u(claim_id, dispatch_key, ask)
   group by claim_id
), held as materialized (
  select l.place, t.more, t.keys
    from (select * from told order by claim_id) t
   cross join lateral (select ctid as place from orchestrator.lease
                        where queue = %(queue)s and claim_id = t.claim_id offset 0 for no key update skip locked) l
)
update orchestrator.lease l
   set yielding = array(select k from unnest(l.yielding) as k where k <> all (h.keys)) || coalesce(h.more, '{}')
  from held h where l.ctid = h.place
returning pg_notify(%(control)s, l.claim_id::text);
