-- Election: an advisory lock for speed, an epoch row for safety.

-- name: guard
-- What must hold before this session may lead: a writable primary, its own backend, the timeouts.
select pg_is_in_recovery(), pg_backend_pid(), current_setting('server_version_num')::integer,
       (select array_agg(name || '=' || setting) from pg_settings where name = any (%(names)s::text[])),
       inet_client_addr() is null;

-- name: database_id
-- Which database this is among all there are, the same before and after a promotion.
select (select system_identifier from pg_control_system())::text || '-' || oid::text
  from pg_database where datname = current_database();

-- name: try_lock
-- Takes the lock if it is free. If it is not, tells for how long the server has waited for the leader to
-- say something, and ends its session where that is too long. The server's own timeouts end a session
-- that is silent between statements; none of them runs between two messages of one pipeline, or while an
-- answer is being sent.
with tried as materialized (
  select pg_try_advisory_lock(%(classid)s::integer, %(queue)s::integer) as taken
), leader as materialized (
  select a.pid, extract(epoch from clock_timestamp() - a.state_change)::float8 as silent_s
    from tried
   cross join orchestrator.orchestrator_lock k
   cross join lateral pg_stat_get_activity(k.backend_pid) a
   where not tried.taken and k.queue = %(queue)s::integer
     and a.application_name like 'orchestrator leader %%' and a.wait_event_type = 'Client'
)
select tried.taken, pg_backend_pid(),
       (select bool_or(pg_terminate_backend(l.pid))
          from leader l
         cross join lateral pg_stat_get_activity(l.pid) a
         where l.silent_s > %(silent_s)s::float8 and pg_has_role(a.usesysid, 'usage')),
       (select max(silent_s) from leader)
  from tried;

-- name: holds_lock
select count(*)::integer from pg_locks
 where locktype = 'advisory' and classid = %(classid)s::bigint::oid and objid = %(queue)s::bigint::oid
   and objsubid = 2 and granted and pid = pg_backend_pid();

-- name: unlock
select pg_advisory_unlock(%(classid)s::integer, %(queue)s::integer);

-- name: elect
-- Opens a term: everything that carries an older (epoch, term) is void from this commit on. Waits for
-- the tick, if one is under way, of the leader before.
update orchestrator.orchestrator_lock
   set epoch = epoch + 1, term = gen_random_uuid(), holder = %(holder)s, backend_pid = pg_backend_pid(),
       timeline = ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer,
       elected_at = clock_timestamp()
 where queue = %(queue)s
returning epoch, term, timeline;

-- name: log_event
insert into orchestrator.leadership_log (queue, epoch, term, holder, timeline, event, reason)
values (%(queue)s, %(epoch)s, %(term)s, %(holder)s, %(timeline)s, %(event)s, %(reason)s);

-- name: queues
-- The queues a replica may stand for; all of them when no name is given.
select id, name, policy, cost_mode, capacity, headroom, express_reserve, ready_max, kappa, max_wait_s, paused_at is not null
  from orchestrator.queue
 where %(names)s::text[] is null or name = any (%(names)s::text[])
 order by id;

-- name: queue
select id, name, policy, cost_mode, capacity, headroom, express_reserve, ready_max, kappa, max_wait_s, paused_at is not null
  from orchestrator.queue where id = %(queue)s;

-- name: leader
-- Who leads, and when its session was last heard of: from the server's view of the backend, not from
-- a heartbeat row.
select k.queue, q.name, k.epoch, k.term, k.holder, k.backend_pid, k.timeline, k.elected_at,
       a.pid is not null, a.state_change, extract(epoch from clock_timestamp() - a.state_change)::float8
  from orchestrator.orchestrator_lock k
  join orchestrator.queue q on q.id = k.queue
  left join pg_locks l on l.locktype = 'advisory' and l.classid = %(classid)s::bigint::oid and l.objid = k.queue::bigint::oid
        and l.objsubid = 2 and l.granted and l.pid = k.backend_pid
        and l.database = (select oid from pg_database where datname = current_database())
  left join pg_stat_activity a on a.pid = l.pid
 order by k.queue;

-- name: terminate
-- Ends the leader's session: its process stands again after the others.
select pg_terminate_backend(%(pid)s::integer);

-- name: leadership_history
select epoch, event, holder, reason, at from orchestrator.leadership_log
 where queue = %(queue)s order by id desc limit %(limit)s;
