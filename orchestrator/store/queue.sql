-- Claim, extend, finish, give back, reap: everything that happens to an admitted task.
-- Rows are found through LATERAL … OFFSET 0, which fixes the order of the nested loop, and then taken by
-- place alone: with a join on the key, stale statistics turned it round and made it quadratic
-- (measured: 44 ms instead of 2 for 500 rows).
-- Lock order: leases by claim id, then task_queue rows by key. Ack takes a lease's lock only to delete
-- it, and only if it is free.
-- Every removal from task_queue writes down what the attempt cost: the worker time it took. A worker
-- knows best how long a handler ran, but what it says is charged to its org: the database's own clock
-- since the claim bounds it from above, zero from below, and stands in where nothing was said (LEAST
-- passes over NULL). An attempt that was never claimed has cost nothing.

-- name: claim
-- Claims up to `limit` ready tasks and leases them: one statement, so that no claimed row is without
-- a lease. The rows are picked in an InitPlan, evaluated once: `IN (SELECT … LIMIT … SKIP LOCKED)`
-- is re-run by a nested loop and claims more than asked. Express work comes first: its keys lie below
-- -2^61 (see names.MAIN_MIN), all others above. The second arm is not looked at once the first has
-- filled the limit, nor where `main_limit` is 0. Each floor bounds its scan; it is read through a
-- sub-select, because a bare volatile function would become a filter on every row.
-- A claim that will hardly find more than a few brings their records along (`records`), found one by one: it
-- spares a statement. Those of many are found together, by `claimed_tasks`, and arrays tell what they are
-- of (`apart`). Either way what was claimed is told, also where its record is gone.
with claimed as (
  update orchestrator.task_queue
     set claim_id = %(claim_id)s, attempt = attempt + 1, claimed_at = clock_timestamp()
   where ctid = any (array(
     select place from (
       select ctid as place from orchestrator.task_queue
        where queue = %(queue)s
          and dispatch_key >= (select coalesce(pg_sequence_last_value(%(express_floor)s::regclass), -9223372036854775808))
          and dispatch_key < -2305843009213693952
          and claim_id is null and expires_at > clock_timestamp()
        order by queue, dispatch_key
        limit %(express_limit)s
        for no key update skip locked) express
     union all
     select place from (
       select ctid as place from orchestrator.task_queue
        where queue = %(queue)s
          and dispatch_key >= (select greatest(pg_sequence_last_value(%(floor)s::regclass), -2305843009213693952))
          and claim_id is null and expires_at > clock_timestamp()
        order by queue, dispatch_key
        limit %(main_limit)s
        for no key update skip locked) main
     limit %(limit)s))
  returning dispatch_key, task_id, attempt, lost, claimed_at
)
-- part records:
, leased as (
-- end part
insert into orchestrator.lease (claim_id, queue, worker, expires_at, dispatch_keys, task_ids, attempts)
select %(claim_id)s, %(queue)s, %(worker)s, clock_timestamp() + %(lease_s)s::float8 * interval '1 second',
       array_agg(dispatch_key order by dispatch_key), array_agg(task_id order by dispatch_key),
       array_agg(attempt order by dispatch_key)
  from claimed having count(*) > 0
returning expires_at, dispatch_keys, task_ids, attempts
-- part apart:
        , (select array_agg(task_id) from claimed where lost > 0), (select array_agg(lost) from claimed where lost > 0)
-- end part
-- part records:
)
select l.expires_at, c.dispatch_key, c.task_id, c.attempt, c.lost,
       t.id, t.name, t.payload::text, t.org_id, t.workload, t.priority, t.max_attempts, t.timeout_s,
       t.headers::text, t.created_at, date_part('epoch', c.claimed_at - greatest(t.created_at, t.run_at)),
       t.idempotency_key is not null
  from leased l
 cross join claimed c
  left join lateral (select * from orchestrator.task where queue = %(queue)s and id = c.task_id offset 0) t on true
-- end part
;

-- name: any_ready
-- Tells whether anything unclaimed is there, also what another transaction holds: a claim passes over such
-- rows, and if that transaction rolls back, nobody says that they can be claimed after all. To be asked in
-- a later statement than a claim that found nothing.
select exists (select from orchestrator.task_queue
                where queue = %(queue)s
                  and dispatch_key >= (select coalesce(pg_sequence_last_value(%(express_floor)s::regclass), -9223372036854775808))
                  and dispatch_key < -2305843009213693952
                  and claim_id is null and expires_at > clock_timestamp())
    or exists (select from orchestrator.task_queue
                where queue = %(queue)s
                  and dispatch_key >= (select greatest(pg_sequence_last_value(%(floor)s::regclass), -2305843009213693952))
                  and claim_id is null and expires_at > clock_timestamp());

-- name: express_part
-- Which part of its slots the queue keeps for express work; NULL = the usual part, 0 = none. A reserve
-- without a capacity is a part of nothing: workers keep the usual one.
select case when not exists (select from orchestrator.workload where express) or express_reserve = 0 then 0
            else express_reserve::float8 / capacity end
  from orchestrator.queue where id = %(queue)s;

-- name: leased_keys
-- The dispatch keys that are leased under one claim.
select dispatch_keys from orchestrator.lease where queue = %(queue)s and claim_id = %(claim_id)s;

-- name: claimed_tasks
-- The records of the tasks of one claim, with payloads as text: decoding is the worker's, task by task. In
-- no order, and without those whose record is gone: what was claimed is told by the claim itself.
select t.id, t.name, t.payload::text, t.org_id, t.workload, t.priority, t.max_attempts, t.timeout_s,
       t.headers::text, t.created_at, date_part('epoch', l.claimed_at - greatest(t.created_at, t.run_at)),
       t.idempotency_key is not null
  from orchestrator.lease l
-- since 17:
 -- The bounds spare the partitions in which none of them lies.
 cross join lateral (select min(id) as lowest, max(id) as highest from unnest(l.task_ids) as u(id)) b
  left join lateral (select * from orchestrator.task
                      where queue = %(queue)s and id = any (l.task_ids) and id between b.lowest and b.highest offset 0) t on true
-- before:
 cross join lateral unnest(l.task_ids) as u(id)
  left join lateral (select * from orchestrator.task where queue = %(queue)s and id = u.id offset 0) t on true
-- end
 where l.queue = %(queue)s and l.claim_id = %(claim_id)s;

-- name: extend
-- Moves the end of leases that still run; an expired one is never revived. One row for each claim call. Brings
-- back which of their tasks were asked to stop, and which to yield.
update orchestrator.lease
   set expires_at = greatest(expires_at, clock_timestamp() + %(lease_s)s::float8 * interval '1 second')
 where queue = %(queue)s and claim_id = any (%(claims)s::uuid[]) and expires_at > clock_timestamp()
returning claim_id, expires_at, cancelled, yielding;

-- name: finish
-- Ends attempts for good (succeeded, discarded, dead): fenced by the claim id, whatever the lease says.
-- Most of a batch ends in one way: an attempt names the way by its number among the few different ones.
-- The keys are sorted and differ from one another, so `width_bucket` tells by halving where among them a row's
-- key stands, and with it what belongs to the row: a join would be a search and a node of the plan for each.
-- Whoever knows that none of the tasks has an idempotency key sends it without `keyed`: none is looked for.
-- With `closing`, deletes the leases of which nothing is left; a row that another transaction is
-- deleting still stands here, and keeps its lease. Whoever ends all that was leased sends it without `rest`.
with gone as (
  delete from orchestrator.task_queue
-- since 17:
   where queue = %(queue)s and dispatch_key = any (%(keys)s::bigint[])
-- before:
   where ctid = any (array(
           select q.place from unnest(%(keys)s::bigint[]) as u(dispatch_key)
            cross join lateral (select ctid as place from orchestrator.task_queue
                                 where queue = %(queue)s and dispatch_key = u.dispatch_key offset 0) q))
     -- In case the place was reused.
     and dispatch_key + 0 = (%(keys)s::bigint[])[width_bucket(dispatch_key, %(keys)s::bigint[])]
-- end
     and claim_id = (%(claims)s::uuid[])[(%(hows)s::bigint[])[width_bucket(dispatch_key, %(keys)s::bigint[])]]
  returning *, width_bucket(dispatch_key, %(keys)s::bigint[]) as number
), logged as (
  insert into orchestrator.task_attempt (queue, task_id, attempt, status, final, dispatch_key, org_id, workload,
                                         charged_us, cost_us, weight, share, reserved, claimed_at, worker, error)
  select queue, task_id, attempt, (%(statuses)s::text[])[(%(hows)s::bigint[])[number]], true, dispatch_key, org_id, workload,
         charged_us,
         greatest(0, least(nullif((%(costs_us)s::bigint[])[number], -1),
                           (date_part('epoch', clock_timestamp() - claimed_at) * 1000000)::bigint)),
         weight, share, reserved, claimed_at, %(worker)s, (%(errors)s::text[])[(%(hows)s::bigint[])[number]]
    from gone
-- part keyed:
), freed as (
  delete from orchestrator.idempotency_key
   where ctid = any (array(
     select k.place from gone g
      cross join lateral (select ctid as place from orchestrator.idempotency_key
                           where queue = %(queue)s and task_id = g.task_id offset 0) k))
-- end part
), closed as (
  -- SKIP LOCKED: whoever gives back a task of this lease locks the lease first and rows after, we the
  -- other way round; a lease left standing is the reaper's.
  delete from orchestrator.lease where ctid = any (array(
    select ctid from orchestrator.lease l
     where l.queue = %(queue)s and l.claim_id = any (%(closing)s::uuid[])
       -- The cheap answer first: all of it went just now.
       and (cardinality(l.dispatch_keys) = (select count(*) from gone g where g.claim_id = l.claim_id)
-- part rest:
            or not exists (select from orchestrator.task_queue q
                            where q.queue = l.queue and q.dispatch_key = any (l.dispatch_keys)
                              and q.claim_id = l.claim_id and q.dispatch_key not in (select dispatch_key from gone))
-- end part
           )
       for update skip locked))
)
select array_agg(dispatch_key),
       case when pg_sequence_last_value(%(doze)s::regclass) >= 3 then pg_notify(%(channel)s, '') is null end
  from gone;

-- name: lock_leases
-- Taken before `give_back` reads what was cancelled: lock first, then read in a later statement.
select claim_id from orchestrator.lease
 where queue = %(queue)s and claim_id = any (%(claims)s::uuid[])
 order by claim_id for no key update;

-- name: give_back
-- Ends attempts that may be tried again (failed, released, snoozed): re-stages or schedules the task,
-- or ends it as dead (attempts spent) or cancelled (asked to stop meanwhile). Under the lease locks.
with back as materialized (
  select u.dispatch_key, u.cost_us, u.delay_s, (%(claims)s::uuid[])[u.how] as claim_id,
         (%(statuses)s::text[])[u.how] as status, (%(errors)s::text[])[u.how] as error
    from unnest(%(keys)s::bigint[], %(hows)s::bigint[], %(costs_us)s::bigint[], %(delays_s)s::float8[])
      as u(dispatch_key, how, cost_us, delay_s)
), held as materialized (
  select b.*, q.place from back b
   cross join lateral (select ctid as place from orchestrator.task_queue
                        where queue = %(queue)s and dispatch_key = b.dispatch_key and claim_id = b.claim_id offset 0) q
), gone as (
  delete from orchestrator.task_queue q using held h
   where q.ctid = h.place and q.claim_id = h.claim_id
  returning q.*, h.status, h.delay_s, h.error,
            greatest(0, least(nullif(h.cost_us, -1), (date_part('epoch', clock_timestamp() - q.claimed_at) * 1000000)::bigint)) as cost_us
), judged as materialized (
  select g.*,
         case when g.dispatch_key = any (l.cancelled) then 'cancelled'
              when g.status = 'failed' and g.attempt >= t.max_attempts then 'dead'
              when t.id is null then 'dead'
              else g.status end as verdict,
         case when t.critical then -12 else -g.priority end as neg_priority
    from gone g
    left join lateral (select id, max_attempts, critical from orchestrator.task
                        where queue = %(queue)s and id = g.task_id offset 0) t on true
    left join lateral (select cancelled from orchestrator.lease
                        where queue = %(queue)s and claim_id = g.claim_id offset 0) l on true
), logged as (
  insert into orchestrator.task_attempt (queue, task_id, attempt, status, final, dispatch_key, org_id, workload,
                                         charged_us, cost_us, weight, share, reserved, claimed_at, worker, error)
  select queue, task_id, attempt, verdict, verdict in ('dead', 'cancelled'), dispatch_key, org_id, workload,
         charged_us, cost_us, weight, share, reserved, claimed_at, %(worker)s, error
    from judged
), restaged as (
  insert into orchestrator.staging_queue (queue, org_id, workload, neg_priority, task_id, attempt, lost, expires_at)
  select queue, org_id, workload, neg_priority, task_id,
         case when status = 'failed' then attempt else attempt - 1 end,
         case when status = 'released' then lost else 0 end, expires_at
    from judged where verdict not in ('dead', 'cancelled') and not delay_s > 0
), rescheduled as (
  insert into orchestrator.scheduled_queue (queue, run_at, org_id, workload, neg_priority, task_id, attempt, lost, expires_at)
  select queue, clock_timestamp() + delay_s * interval '1 second', org_id, workload, neg_priority, task_id,
         case when status = 'failed' then attempt else attempt - 1 end,
         case when status = 'released' then lost else 0 end, expires_at
    from judged where verdict not in ('dead', 'cancelled') and delay_s > 0
), freed as (
  delete from orchestrator.idempotency_key
   where ctid = any (array(
     select k.place from judged j
      cross join lateral (select ctid as place from orchestrator.idempotency_key
                           where queue = %(queue)s and task_id = j.task_id offset 0) k
      where j.verdict in ('dead', 'cancelled')))
), closed as (
  delete from orchestrator.lease l
   where l.queue = %(queue)s and l.claim_id = any (%(claims)s::uuid[])
     -- The cheap answer first: all of it went just now.
     and (cardinality(l.dispatch_keys) = (select count(*) from gone g where g.claim_id = l.claim_id)
          or not exists (select from orchestrator.task_queue q
                          where q.queue = l.queue and q.dispatch_key = any (l.dispatch_keys)
                            and q.claim_id = l.claim_id and q.dispatch_key not in (select dispatch_key from gone)))
), woken as materialized (
  select pg_notify(%(channel)s, '') where pg_sequence_last_value(%(doze)s::regclass) >= 2
)
select dispatch_key, verdict, (select count(*) from woken) from judged;

-- name: lock_expired
-- Leases whose time is over, after a given one. SKIP LOCKED: one that is being extended or reaped is
-- somebody else's.
select claim_id, expires_at from orchestrator.lease
 where queue = %(queue)s and expires_at <= (select clock_timestamp()) and (expires_at, claim_id) > (%(after_at)s, %(after_id)s)
 order by expires_at, claim_id limit %(limit)s
   for update skip locked;

-- name: reap
-- Takes lost tasks back under the lease locks of `lock_expired`: re-staged, or ended as dead (attempts
-- spent) or cancelled. A row that an ack holds in an open transaction is skipped and keeps its lease.
with due as materialized (
  select l.claim_id, l.worker, l.cancelled, u.dispatch_key
    from orchestrator.lease l cross join lateral unnest(l.dispatch_keys) as u(dispatch_key)
   where l.queue = %(queue)s and l.claim_id = any (%(claims)s::uuid[])
), held as materialized (
  select q.place, d.worker, d.dispatch_key = any (d.cancelled) as cancelled
    from (select * from due order by dispatch_key) d
   cross join lateral (select ctid as place from orchestrator.task_queue
                        where queue = %(queue)s and dispatch_key = d.dispatch_key and claim_id = d.claim_id
                       offset 0 for update skip locked) q
), gone as (
  delete from orchestrator.task_queue q using held h where q.ctid = h.place
  returning q.*, h.worker, h.cancelled,
            greatest(0, (date_part('epoch', clock_timestamp() - q.claimed_at) * 1000000)::bigint) as cost_us
), judged as materialized (
  select g.*,
         case when g.cancelled then 'cancelled'
              when g.attempt >= coalesce(t.max_attempts, 0) then 'dead'
              else 'lost' end as verdict,
         case when t.critical then -12 else -g.priority end as neg_priority
    from gone g
    left join lateral (select max_attempts, critical from orchestrator.task
                        where queue = %(queue)s and id = g.task_id offset 0) t on true
), logged as (
  insert into orchestrator.task_attempt (queue, task_id, attempt, status, final, dispatch_key, org_id, workload,
                                         charged_us, cost_us, weight, share, reserved, claimed_at, worker, error)
  select queue, task_id, attempt, verdict, verdict <> 'lost', dispatch_key, org_id, workload,
         charged_us, cost_us, weight, share, reserved, claimed_at, worker, 'lease expired: the worker stopped extending it'
    from judged
), restaged as (
  insert into orchestrator.staging_queue (queue, org_id, workload, neg_priority, task_id, attempt, lost, expires_at)
  select queue, org_id, workload, neg_priority, task_id, attempt, lost + 1, expires_at
    from judged where verdict = 'lost'
), freed as (
  delete from orchestrator.idempotency_key
   where ctid = any (array(
     select k.place from judged j
      cross join lateral (select ctid as place from orchestrator.idempotency_key
                           where queue = %(queue)s and task_id = j.task_id offset 0) k
      where j.verdict <> 'lost'))
), closed as (
  delete from orchestrator.lease l
   where l.queue = %(queue)s and l.claim_id = any (%(claims)s::uuid[])
     and not exists (select from (select dispatch_key, claim_id from orchestrator.task_queue
                                    where queue = %(queue)s and dispatch_key = any (l.dispatch_keys) offset 0) q
                      where q.claim_id = l.claim_id
                        and q.dispatch_key <> all (coalesce((select array_agg(dispatch_key) from gone), '{}')))
)
select task_id, verdict from judged;

-- name: expire_ready
-- Ends ready tasks whose deadline has passed; a claimed one runs on.
with due as materialized (
  select ctid as place from orchestrator.task_queue
   where queue = %(queue)s and expires_at <= (select clock_timestamp()) and expires_at < 'infinity' and claim_id is null
   order by expires_at limit %(limit)s
     for update skip locked
), gone as (
  delete from orchestrator.task_queue q using due d where q.ctid = d.place returning q.*
), logged as (
  insert into orchestrator.task_attempt (queue, task_id, attempt, status, final, dispatch_key, org_id, workload,
                                         charged_us, cost_us, weight, share, reserved, error)
  select queue, task_id, attempt, 'expired', true, dispatch_key, org_id, workload,
         charged_us, 0, weight, share, reserved, 'deadline passed'
    from gone
), freed as (
  delete from orchestrator.idempotency_key
   where ctid = any (array(
     select k.place from gone g
      cross join lateral (select ctid as place from orchestrator.idempotency_key
                           where queue = %(queue)s and task_id = g.task_id offset 0) k))
)
select task_id from gone;

-- name: expire_staged
-- Ends staged tasks whose deadline has passed, also those of paused orgs.
with due as materialized (
  select ctid as place from orchestrator.staging_queue
   where queue = %(queue)s and expires_at <= (select clock_timestamp()) and expires_at < 'infinity'
   order by expires_at limit %(limit)s
     for update skip locked
), gone as (
  delete from orchestrator.staging_queue s using due d where s.ctid = d.place returning s.*
), logged as (
  insert into orchestrator.task_attempt (queue, task_id, attempt, status, final, org_id, workload, error)
  select queue, task_id, attempt, 'expired', true, org_id, workload, 'deadline passed' from gone
), freed as (
  delete from orchestrator.idempotency_key
   where ctid = any (array(
     select k.place from gone g
      cross join lateral (select ctid as place from orchestrator.idempotency_key
                           where queue = %(queue)s and task_id = g.task_id offset 0) k))
)
select task_id from gone;

-- name: expire_scheduled
-- Ends scheduled tasks whose deadline has passed.
with due as materialized (
  select ctid as place from orchestrator.scheduled_queue
   where queue = %(queue)s and expires_at <= (select clock_timestamp()) and expires_at < 'infinity'
   order by expires_at limit %(limit)s
     for update skip locked
), gone as (
  delete from orchestrator.scheduled_queue s using due d where s.ctid = d.place returning s.*
), logged as (
  insert into orchestrator.task_attempt (queue, task_id, attempt, status, final, org_id, workload, error)
  select queue, task_id, attempt, 'expired', true, org_id, workload, 'deadline passed' from gone
), freed as (
  delete from orchestrator.idempotency_key
   where ctid = any (array(
     select k.place from gone g
      cross join lateral (select ctid as place from orchestrator.idempotency_key
                           where queue = %(queue)s and task_id = g.task_id offset 0) k))
)
select task_id from gone;

-- name: promote
-- Stages scheduled tasks that are due. Reads from `since` on, so that the entries of rows promoted
-- long ago, dead but not yet vacuumed, are not walked every time.
with due as materialized (
  select ctid as place from orchestrator.scheduled_queue
   where queue = %(queue)s and run_at <= (select clock_timestamp()) and run_at > %(since)s
   order by run_at, task_id limit %(limit)s
     for update skip locked
), gone as (
  delete from orchestrator.scheduled_queue s using due d where s.ctid = d.place returning s.*
), staged as (
  insert into orchestrator.staging_queue (queue, org_id, workload, neg_priority, task_id, attempt, lost, expires_at)
  select queue, org_id, workload, neg_priority, task_id, attempt, lost, expires_at from gone
)
select task_id from gone;

-- name: lift
-- The age bound: tasks that were enqueued longer ago than `max_wait_s` go to the top of their flow. A
-- loose scan of (flow, priority), then the oldest of each. The new xid makes the feed report them, which
-- lowers the cursor of the flow.
with recursive head as (
  (select org_id, workload, neg_priority from orchestrator.staging_queue
    where queue = %(queue)s order by queue, org_id, workload, neg_priority limit 1)
  union all
  select n.org_id, n.workload, n.neg_priority from head h
   cross join lateral (
     select org_id, workload, neg_priority from orchestrator.staging_queue
      where queue = %(queue)s and (org_id, workload, neg_priority) > (h.org_id, h.workload, h.neg_priority)
      order by queue, org_id, workload, neg_priority limit 1) n
), old as materialized (
  select o.place from head h
   cross join lateral (
     select s.place from (
       select ctid as place, task_id from orchestrator.staging_queue
        where queue = %(queue)s and org_id = h.org_id and workload = h.workload and neg_priority = h.neg_priority
        order by queue, org_id, workload, neg_priority, task_id limit %(limit)s) s
       join orchestrator.task t on t.queue = %(queue)s and t.id = s.task_id
      where t.created_at < clock_timestamp() - %(max_wait_s)s::float8 * interval '1 second'
     offset 0) o
   where h.neg_priority > -11
)
update orchestrator.staging_queue s
   set neg_priority = -11, xid = pg_current_xact_id()
  from old o where s.ctid = o.place
returning s.task_id;
