-- The tick: feeds, fence, probe, and what moves and persists.

-- name: attempt_feed
-- Attempts that ended since the snapshot `prev`, by flow: the slots they freed, by how much their charges
-- miss the truth, each at the weight and the share of its admission, and the keys that had overrun. Exactly
-- the rows of transactions that were not visible to `prev`: ids commit out of order, so neither `id > max`
-- nor gap lists are safe; the difference of two snapshots is. Returned together with the snapshot this
-- statement saw. Read while this session has no transaction id of its own, so that whatever it writes later
-- lies at or above that snapshot's xmax. Virtual cost as in fairness/costs.py, in integers; ordered,
-- because estimates depend on the order.
select pg_current_snapshot()::text, f.org_id, f.workload, f.reserved, f.slots, f.ran, f.cost_us, f.tag_delta, f.flow_delta,
       f.overran, f.largest_us
  from (select) as one
  left join (
    select e.org_id, e.workload, e.reserved, count(*)::integer as slots,
           (count(*) filter (where e.cost_us > 0))::integer as ran, sum(e.cost_us)::bigint as cost_us,
           sum(greatest(1, e.cost_us * 1024 / e.weight)
               - greatest(1, coalesce(o.charged_us, e.charged_us) * 1024 / e.weight))::bigint as tag_delta,
           sum(greatest(1, e.cost_us * 1024 / e.share)
               - greatest(1, coalesce(o.charged_us, e.charged_us) * 1024 / e.share))::bigint as flow_delta,
           array_agg(e.dispatch_key) filter (where o.charged_us is not null) as overran,
           max(greatest(e.cost_us, e.charged_us)) as largest_us
      from (select org_id, workload, reserved, least(cost_us, %(cost_max_us)s::bigint) as cost_us,
                   charged_us, weight, share, dispatch_key, claimed_at, ended_at
              from orchestrator.task_attempt
             where queue = %(queue)s and xid >= pg_snapshot_xmax(%(prev)s::pg_snapshot) and dispatch_key is not null
            union all
            select org_id, workload, reserved, least(cost_us, %(cost_max_us)s::bigint),
                   charged_us, weight, share, dispatch_key, claimed_at, ended_at
              from orchestrator.task_attempt
             where queue = %(queue)s and xid = any (array(select pg_snapshot_xip(%(prev)s::pg_snapshot)))
               and dispatch_key is not null) e
      -- Only one that outlasted its charge can have overrun, and was claimed some time before it was looked
      -- at, which was before now: the others are not looked for. Half of that time, in case a clock is set.
      left join lateral (select charged_us from orchestrator.overrun
                          where queue = %(queue)s and dispatch_key = e.dispatch_key
                            and e.claimed_at < (select clock_timestamp()) - %(young_s)s::float8 * interval '1 second'
                            and e.ended_at > e.claimed_at + e.charged_us * interval '1 microsecond' offset 0) o on true
     group by e.org_id, e.workload, e.reserved) f on true
 order by f.org_id, f.workload, f.reserved;

-- name: staging_feed
-- Work staged since the snapshot `prev`, by flow, with a lower bound of its keys, how much of it is critical, and
-- the number by which hints name the flow (as in staging.sql); oldest first. Reads at most `most` rows: one transaction may have staged millions, and no statement may
-- come near its timeout. Where it read that many, the counts are void and `count_flows` tells instead. The queue is asked for
-- outside, or the primary key, which begins with it, would look as good as the index on the xid.
select pg_current_snapshot()::text, f.org_id, f.workload, f.staged, f.neg_priority, f.task_id, f.critical,
       hashtextextended(f.workload, hashtextextended(f.org_id, 0))
  from (select) as one
  left join (
    select org_id, workload, count(*)::bigint as staged, min(neg_priority) as neg_priority, min(task_id) as task_id,
           count(*) filter (where neg_priority = -12) as critical
      from (select org_id, workload, neg_priority, task_id
              from (select * from orchestrator.staging_queue
                     where xid >= pg_snapshot_xmax(%(prev)s::pg_snapshot) offset 0) later
             where queue = %(queue)s
            union all
            select org_id, workload, neg_priority, task_id
              from (select * from orchestrator.staging_queue
                     where xid = any (array(select pg_snapshot_xip(%(prev)s::pg_snapshot))) offset 0) open_then
             where queue = %(queue)s
             limit %(most)s) staged
     group by org_id, workload) f on true
 order by f.task_id;

-- name: begin
begin;

-- name: no_wait
-- The transaction's commit waits neither for the disk nor for standbys; for what a tick changes, and nothing
-- else. Only a crash of the server can lose it, and only together with all that was written later: whoever
-- commits after having seen it waits for both. So nobody is told anything that stands on a tick that may be
-- lost, and a lost tick is one that never was: its tasks are staged, under their tags.
set local synchronous_commit = off;

-- name: commit
commit;

-- name: rollback
rollback;

-- name: fence
-- Holds the leadership row for the transaction. Its own statement: what is read in the statement that
-- waits for a lock is older than the lock. No row = somebody else leads. FOR UPDATE writes no version.
select epoch from orchestrator.orchestrator_lock
 where queue = %(queue)s and epoch = %(epoch)s and term = %(term)s
   for update;

-- name: probe
-- What is ready and the smallest unclaimed key, of ordinary and of express work, and which configuration
-- is in force.
select m.ready, m.lowest, e.ready, e.lowest,
       (select coalesce(pg_sequence_last_value('orchestrator.config_version'), 0)),
       (select coalesce(pg_sequence_last_value('orchestrator.config_deletes'), 0))
  from (select count(*)::integer as ready, min(dispatch_key) as lowest from orchestrator.task_queue
         where queue = %(queue)s
           and dispatch_key >= greatest((select pg_sequence_last_value(%(floor)s::regclass)), %(main_min)s::bigint)
           and claim_id is null) m
 cross join
       (select count(*)::integer as ready, min(dispatch_key) as lowest from orchestrator.task_queue
         where queue = %(queue)s
           and dispatch_key >= (select coalesce(pg_sequence_last_value(%(express_floor)s::regclass), -9223372036854775808))
           and dispatch_key < %(main_min)s::bigint
           and claim_id is null) e;

-- name: set_floor
-- Publishes that no unclaimed key lies below; after the fence, before any insert of its transaction. Where the
-- term is over, nothing: a sequence knows no rollback.
select setval(%(floor)s::regclass, %(value)s::bigint)
 where exists (select from orchestrator.orchestrator_lock
                where queue = %(queue)s and epoch = %(epoch)s and term = %(term)s);

-- name: set_doze
select setval(%(doze)s::regclass, %(value)s::bigint);

-- name: tick
-- What a tick does, in one statement after its fence: admits what is planned, saves the cut, writes the tick
-- down and wakes the workers. All of it, or nothing: only where the term still leads, the configuration is the
-- one of the plan, and every planned flow has the tasks that are planned. What is read here is read after the
-- fence, so it is in force until the transaction ends; the caller may send the commit with it.
--
-- The heads of the planned flows, from each flow's cursor on, go from staging into the task queue; no task
-- crosses to the client and back. Only tasks of which the feed up to `counted` has told: of the others it
-- would tell later, when they are gone. Or, unless `told`, only the others: what a hint told of, and nobody counted. `bases` holds the dispatch keys of the planned tasks at priority 0,
-- flow by flow; the task's own priority is taken off in `key_step`s. The first `mains` of a flow take slots
-- of the main lane, the others of the reserve. Rows are deleted by place, and no statistics can turn that
-- join round; the id is checked in case the place was reused (`+ 0`: no index shall be tempted).
--
-- What changed of orgs and flows is one row of the journal, which is folded into their tables beside the ticks. The
-- row of the queue is updated by place, and by no index (hence `+ 0`): under a held snapshot it would walk every dead
-- version of it.
--
-- A task that is cancelled under our eyes, or a row of the queue that others moved, must undo it all: then the
-- tick cannot be written down, because a column is NULL, which tells the two apart.
--
-- A part that has nothing to do is left out (`lean.py`). Of `tasks` and `task` there is one: `task` for a single one.
with now as materialized (
  select exists (select from orchestrator.orchestrator_lock
                  where queue = %(queue)s and epoch = %(epoch)s and term = %(term)s) as leads,
         coalesce(pg_sequence_last_value('orchestrator.config_version'), 0) as config_version,
         coalesce(pg_sequence_last_value('orchestrator.config_deletes'), 0) as config_deletes
), heads as materialized (
-- part tasks:
  select p.flow, p.first + s.rank as number, s.rank > p.main as reserved, p.charged_us, p.weight, p.share, s.*
    from unnest(%(orgs)s::text[], %(workloads)s::text[], %(cursor_priorities)s::bigint[], %(cursor_ids)s::bigint[],
                %(counts)s::bigint[], %(firsts)s::bigint[], %(mains)s::bigint[],
                %(charged_uss)s::bigint[], %(weights)s::bigint[], %(shares)s::bigint[])
         with ordinality as p(org_id, workload, cursor_priority, cursor_id, wanted, first, main, charged_us, weight, share, flow)
   cross join lateral (
     select row_number() over () as rank, count(*) over () as found, neg_priority, task_id, place
       from (select neg_priority, task_id, ctid as place
               from orchestrator.staging_queue
              where queue = %(queue)s and org_id = p.org_id and workload = p.workload
                and (neg_priority, task_id) > (p.cursor_priority, p.cursor_id)
                and pg_visible_in_snapshot(xid, %(counted)s::pg_snapshot) = %(told)s
              order by queue, org_id, workload, neg_priority, task_id
              limit p.wanted) head) s
-- end part
-- part task:
  select 1 as flow, 1 as number, (%(mains)s::bigint[])[1] < 1 as reserved, (%(charged_uss)s::bigint[])[1] as charged_us,
         (%(weights)s::bigint[])[1] as weight, (%(shares)s::bigint[])[1] as share,
         1 as rank, 1::bigint as found, neg_priority, task_id, ctid as place
    from orchestrator.staging_queue
   where queue = %(queue)s and org_id = (%(orgs)s::text[])[1] and workload = (%(workloads)s::text[])[1]
     and (neg_priority, task_id) > ((%(cursor_priorities)s::bigint[])[1], (%(cursor_ids)s::bigint[])[1])
     and pg_visible_in_snapshot(xid, %(counted)s::pg_snapshot) = %(told)s
   order by queue, org_id, workload, neg_priority, task_id
   limit 1
-- end part
), go as materialized (
  select from now
   where leads and config_version = %(config_version)s and config_deletes = %(config_deletes)s
     and (select count(*) from heads) = cardinality(%(bases)s::bigint[])
), moved as (
  delete from orchestrator.staging_queue s using heads h
   where exists (select from go) and s.ctid = h.place and s.task_id + 0 = h.task_id
  returning h.number, h.reserved, h.charged_us, h.weight, h.share,
            s.task_id, s.org_id, s.workload, least(10, -s.neg_priority) as priority, s.attempt, s.lost, s.expires_at
), admitted as (
  insert into orchestrator.task_queue (queue, dispatch_key, task_id, org_id, workload, priority, attempt, lost, expires_at,
                                       charged_us, weight, share, reserved)
  select %(queue)s, (%(bases)s::bigint[])[number] - priority * %(key_step)s::bigint,
         task_id, org_id, workload, priority, attempt, lost, expires_at, charged_us, weight, share, reserved
    from moved
  returning 1
), kept_queue as (
  update orchestrator.queue_state
     set virtual_time = %(virtual_time)s, contended = %(contended)s,
         express_virtual_time = %(express_virtual_time)s, express_contended = %(express_contended)s,
         cost_us = %(cost_us)s, admit_seq = %(admit_seq)s, kappa = %(kappa)s,
         staging_snapshot = %(counted)s, attempt_snapshot = %(attempt_snapshot)s
   where exists (select from go) and ctid = %(place)s::tid and queue + 0 = %(queue)s
  returning ctid::text as place
), journaled as (
  insert into orchestrator.cut_journal (queue, size, orgs, org_values, flow_orgs, flow_workloads, flow_values)
  select %(queue)s, cardinality(%(org_names)s::text[]) + cardinality(%(flow_orgs)s::text[]), %(org_names)s::text[], %(org_values)s::bigint[],
         %(flow_orgs)s::text[], %(flow_workloads)s::text[], %(flow_values)s::bigint[]
   where exists (select from go) and cardinality(%(org_names)s::text[]) > 0
-- part overran:
), forgotten as (
  -- The overruns of attempts that were settled.
  delete from orchestrator.overrun
   where exists (select from go)
     and ctid = any (array(
       select o.place from unnest(%(overran)s::bigint[]) as k(dispatch_key)
        cross join lateral (select ctid as place from orchestrator.overrun
                             where queue = %(queue)s and dispatch_key = k.dispatch_key offset 0) o))
-- end part
), logged as (
  insert into orchestrator.tick_log (queue, admit_seq, epoch, settled, admitted, ready, window_max, in_flight, tick_us,
                                     orgs, workloads, counts)
  select %(queue)s, %(admit_seq)s,
         case when exists (select from kept_queue) then %(epoch)s::bigint end,
         %(settled)s,
         case when (select count(*) from admitted) = cardinality(%(bases)s::bigint[])
              then cardinality(%(bases)s::bigint[]) end,
         %(ready)s, %(window_max)s, %(in_flight)s,
         %(before_us)s + date_part('epoch', clock_timestamp() - transaction_timestamp()) * 1000000,
         %(orgs)s::text[], %(workloads)s::text[], %(counts)s::bigint[]
   where exists (select from go) and cardinality(%(bases)s::bigint[]) > 0
  returning 1
), woken as materialized (
  select pg_notify(%(channel)s, %(summons)s) from logged
)
select now.leads, now.config_version, now.config_deletes, exists (select from go), f.*,
       (select place from kept_queue), (select count(*) from woken)
  from now
 cross join (select array_agg(flow - 1), array_agg(found), array_agg(neg_priority), array_agg(task_id)
               from heads where rank = found) f;

-- name: refresh
-- Charges running attempts for what they have used beyond their charge, at least a quarter more each time
-- (fairness/costs.py, `overrun`). Looks at the next leases after a given one that are old enough, by
-- `keys_max` tasks at the most: what a look costs does not depend on how much runs. Under the fence. The
-- charge is kept beside the task: were its row moved, an ack that waits for it would not find it again.
with looked as materialized (
  select claim_id, dispatch_keys
    from (select claim_id, dispatch_keys, own, sum(own) over (order by claim_id) as keys
            from (select claim_id, dispatch_keys,
                         -- About as many as there are, told without fetching the array.
                         greatest(1, pg_column_size(dispatch_keys) / 8 - 2) as own
                    from orchestrator.lease
                   where queue = %(queue)s and claim_id > %(after)s
                     and claimed_at < clock_timestamp() - make_interval(secs => %(min_age_s)s::float8)
                   order by queue, claim_id limit %(leases_max)s) next_leases) counted
   where keys <= %(keys_max)s or keys = own
), overdue as (
  select t.*
    from looked l
   cross join lateral unnest(l.dispatch_keys) as k(dispatch_key)
   cross join lateral (select dispatch_key, org_id, workload, reserved, weight, share, charged_us,
                              least((date_part('epoch', clock_timestamp() - claimed_at) * 1000000)::bigint,
                                    %(cost_max_us)s::bigint) as elapsed_us
                         from orchestrator.task_queue
                        where queue = %(queue)s and dispatch_key = k.dispatch_key and claim_id = l.claim_id offset 0) t
   where t.elapsed_us > t.charged_us
), running as (
  select t.dispatch_key, t.org_id, t.workload, t.reserved, t.weight, t.share,
         coalesce(o.charged_us, t.charged_us) as charged_us, t.elapsed_us
    from overdue t
    left join lateral (select charged_us from orchestrator.overrun
                        where queue = %(queue)s and dispatch_key = t.dispatch_key offset 0) o on true
), due as materialized (
  select *, greatest(elapsed_us, (charged_us * 5 + 3) / 4) as now_us from running where elapsed_us > charged_us
), charged as (
  insert into orchestrator.overrun (queue, dispatch_key, charged_us)
  select %(queue)s, dispatch_key, now_us from due
  on conflict (queue, dispatch_key) do update set charged_us = excluded.charged_us
)
select (select claim_id from looked order by claim_id desc limit 1), d.org_id, d.workload, d.reserved, d.weight, d.share,
       d.charged_us, d.now_us
  from (select) as one
  left join due d on true;

-- name: notify
select pg_notify(%(channel)s, %(payload)s);

-- name: lowest_unclaimed
-- The whole truth about the floor; an election starts from it, the sweep compares with it.
select min(dispatch_key) filter (where dispatch_key >= %(main_min)s::bigint),
       min(dispatch_key) filter (where dispatch_key < %(main_min)s::bigint)
  from orchestrator.task_queue where queue = %(queue)s and claim_id is null;

-- name: parked
-- The listening sessions of the workers that wait for this queue, and the concurrency that each announces: so
-- many digits of it as surely fit, because any session may call itself what it likes.
select pid, coalesce(substring(application_name from 'c=([0-9]{1,6})')::integer, 0)
  from pg_stat_activity
 where datname = current_database() and application_name like %(pattern)s;

-- name: peek
-- One look at everything that could call for work, cheap enough to be the only statement of an idle
-- second: ended attempts, staged work, ready rows, configuration, expired leases, deadlines, due tasks.
-- The clock is read through a sub-select: bare, the volatile function would be asked of every row, and the
-- whole index walked. For OFFSET 0 see `staging_feed`.
select
  exists (select from orchestrator.task_attempt
           where queue = %(queue)s and xid >= pg_snapshot_xmax(%(attempt_prev)s::pg_snapshot))
    or exists (select from orchestrator.task_attempt
                where queue = %(queue)s and xid = any (array(select pg_snapshot_xip(%(attempt_prev)s::pg_snapshot)))),
  exists (select from (select queue from orchestrator.staging_queue
                        where xid >= pg_snapshot_xmax(%(staging_prev)s::pg_snapshot) offset 0) later
           where queue = %(queue)s)
    or exists (select from (select queue from orchestrator.staging_queue
                             where xid = any (array(select pg_snapshot_xip(%(staging_prev)s::pg_snapshot))) offset 0) open_then
                where queue = %(queue)s),
  (select coalesce(pg_sequence_last_value('orchestrator.config_version'), 0)),
  exists (select from (select queue from orchestrator.lease
                        where expires_at <= (select clock_timestamp()) offset 0) expired
           where queue = %(queue)s),
  exists (select from orchestrator.task_queue
           where queue = %(queue)s and expires_at <= (select clock_timestamp()) and expires_at < 'infinity' and claim_id is null)
    or exists (select from orchestrator.staging_queue
                where queue = %(queue)s and expires_at <= (select clock_timestamp()) and expires_at < 'infinity')
    or exists (select from orchestrator.scheduled_queue
                where queue = %(queue)s and expires_at <= (select clock_timestamp()) and expires_at < 'infinity'),
  (select run_at from orchestrator.scheduled_queue
    where queue = %(queue)s and run_at > %(since)s order by queue, run_at limit 1),
  clock_timestamp(), pg_current_snapshot()::text;
