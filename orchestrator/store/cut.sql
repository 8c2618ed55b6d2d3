-- The leader's cut: as a new term loads it, counted again, and derived anew from the tables.

-- name: load_queue
select virtual_time, contended, express_virtual_time, express_contended, cost_us, admit_seq, kappa,
       staging_snapshot, attempt_snapshot, ctid::text, system_identifier::text,
       (select system_identifier::text from pg_control_system())
  from orchestrator.queue_state where queue = %(queue)s;

-- name: load_orgs
-- A chunk of the persisted orgs, by key.
select org_id, tag, virtual_time, in_flight, eligible, express_tag, express_virtual_time, express_in_flight,
       express_eligible, last_admit
  from orchestrator.org_state where queue = %(queue)s and org_id > %(after)s
 order by queue, org_id limit %(limit)s;

-- name: load_flows
select org_id, workload, tag, express_tag, backlog, cost_us
  from orchestrator.flow_state where queue = %(queue)s and (org_id, workload) > (%(after_org)s, %(after_workload)s)
 order by queue, org_id, workload limit %(limit)s;

-- name: fold
-- Brings the tables of orgs and flows up to the journal, by the next rows after one (`fold_cut` of the schema);
-- returns the number of the last. Its commit does not wait for the disk: what a crash undoes stands in the journal.
select orchestrator.fold_cut(%(queue)s, %(after)s, %(most)s), set_config('synchronous_commit', 'off', true);

-- name: count_flows
-- How many tasks the next flows hold, each counted up to a bound: a loose scan. Only those of which the feed
-- up to a snapshot has told.
with recursive flow as (
  (select org_id, workload from orchestrator.staging_queue
    where queue = %(queue)s and (org_id, workload) > (%(after_org)s, %(after_workload)s)
    order by queue, org_id, workload limit 1)
  union all
  select n.org_id, n.workload from flow f
   cross join lateral (
     select org_id, workload from orchestrator.staging_queue
      where queue = %(queue)s and (org_id, workload) > (f.org_id, f.workload)
      order by queue, org_id, workload limit 1) n
)
select f.org_id, f.workload, c.staged
  from (select org_id, workload from flow limit %(limit)s) f
 cross join lateral (
   select count(*)::bigint as staged from (
     select from orchestrator.staging_queue
      where queue = %(queue)s and org_id = f.org_id and workload = f.workload
        and pg_visible_in_snapshot(xid, %(counted)s::pg_snapshot)
      limit %(most)s) s) c;

-- name: count_flow
-- How many tasks of a flow are staged from its cursor on, counted up to a bound; only those of which the feed
-- up to a snapshot has told.
select count(*)::bigint from (
  select from orchestrator.staging_queue
   where queue = %(queue)s and org_id = %(org)s and workload = %(workload)s
     and (neg_priority, task_id) > (%(cursor_priority)s, %(cursor_id)s)
     and pg_visible_in_snapshot(xid, %(counted)s::pg_snapshot)
   limit %(most)s) staged;

-- name: count_in_flight
-- Unfinished rows by org and lane, and the attempts that ended since `prev`, in one snapshot: the rows plus
-- what the feed has yet to report must equal what the leader believes.
select org_id, reserved, sum(n)::integer from (
  select org_id, reserved, count(*) as n from orchestrator.task_queue
   where queue = %(queue)s group by org_id, reserved
  union all
  select org_id, reserved, count(*) from orchestrator.task_attempt
   where queue = %(queue)s and dispatch_key is not null
     and (xid >= pg_snapshot_xmax(%(prev)s::pg_snapshot)
          or xid = any (array(select pg_snapshot_xip(%(prev)s::pg_snapshot))))
   group by org_id, reserved) counted
 group by org_id, reserved;

-- name: adopt_state
-- Notes which cluster the snapshots belong to.
update orchestrator.queue_state set system_identifier = %(system_identifier)s::bigint
 where queue = %(queue)s;

-- name: adopt_rows
-- Transaction ids of another cluster (a restored dump) lie in this one's future, and every feed would read
-- their rows again. Makes up to `limit` of them old.
with foreign_staged as (
  update orchestrator.staging_queue set xid = '3'
   where ctid = any (array(select place from (select queue, ctid as place from orchestrator.staging_queue
                                               where xid > pg_current_xact_id() offset 0) foreign_rows
                            where queue = %(queue)s limit %(limit)s))
  returning 1
), foreign_ended as (
  update orchestrator.task_attempt a set xid = '3'
    from (select tableoid, ctid from orchestrator.task_attempt
           where queue = %(queue)s and xid > pg_current_xact_id() limit %(limit)s) f
   where a.tableoid = f.tableoid and a.ctid = f.ctid
  returning 1
)
select (select count(*) from foreign_staged) + (select count(*) from foreign_ended);

-- name: restart_state
-- Forgets what was derived, for a rebuild from the tables: the snapshots are of another cluster.
with forgotten as (
  delete from orchestrator.org_state where queue = %(queue)s
), forgotten_flows as (
  delete from orchestrator.flow_state where queue = %(queue)s
), forgotten_overruns as (
  delete from orchestrator.overrun where queue = %(queue)s
)
update orchestrator.queue_state
   set system_identifier = %(system_identifier)s::bigint, staging_snapshot = %(snapshot)s, attempt_snapshot = %(snapshot)s
 where queue = %(queue)s
returning ctid::text;

-- name: rebuild_orgs
-- In-flight counts from the rows, backlogs from staging, tags from the virtual time: fair from here on.
with counted as (
  select org_id, sum(main)::integer as in_flight, sum(express)::integer as express_in_flight from (
    select org_id, count(*) filter (where not reserved) as main, count(*) filter (where reserved) as express
      from orchestrator.task_queue where queue = %(queue)s group by org_id
    union all
    select org_id, 0, 0 from orchestrator.staging_queue where queue = %(queue)s group by org_id) c
   group by org_id
)
insert into orchestrator.org_state (queue, org_id, tag, virtual_time, in_flight, eligible, express_tag,
                                    express_virtual_time, express_in_flight, express_eligible, last_admit)
select %(queue)s, org_id, s.virtual_time, 0, in_flight, false, s.express_virtual_time, 0, express_in_flight, false,
       row_number() over (order by org_id) - 4611686018427387904
  from counted
 cross join (select virtual_time, express_virtual_time from orchestrator.queue_state where queue = %(queue)s) s;

-- name: rebuild_flows
insert into orchestrator.flow_state (queue, org_id, workload, tag, express_tag, backlog, cost_us)
select %(queue)s, org_id, workload, 0, 0, count(*), 0
  from orchestrator.staging_queue where queue = %(queue)s group by org_id, workload;

-- name: current_snapshot
select pg_current_snapshot()::text;

-- name: renormalise
-- Takes each virtual time off the tags that are compared with it, so that none overflows; decides nothing. Nor
-- does one underflow that nobody moves: what is as low as that of who was never in line goes no lower.
with flows as (
  update orchestrator.flow_state f
     set tag = greatest(f.tag - o.virtual_time, %(lowest)s::bigint),
         express_tag = greatest(f.express_tag - o.express_virtual_time, %(lowest)s::bigint)
    from orchestrator.org_state o
   where f.queue = %(queue)s and o.queue = f.queue and o.org_id = f.org_id
), orgs as (
  update orchestrator.org_state o
     set tag = greatest(o.tag - q.virtual_time, %(lowest)s::bigint), virtual_time = 0,
         express_tag = greatest(o.express_tag - q.express_virtual_time, %(lowest)s::bigint), express_virtual_time = 0
    from orchestrator.queue_state q
   where o.queue = %(queue)s and q.queue = o.queue
)
update orchestrator.queue_state set virtual_time = 0, express_virtual_time = 0 where queue = %(queue)s;
