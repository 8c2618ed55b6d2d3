-- Partitions ahead of the ids, and the end of old rows.

-- name: partitions
-- The id ranges of the partitions of `task`, oldest first, and the last id that was handed out.
select c.relname, b.bounds[1]::bigint, b.bounds[2]::bigint,
       (select coalesce(pg_sequence_last_value('orchestrator.task_id'), 0))
  from pg_inherits i
  join pg_class c on c.oid = i.inhrelid
 cross join lateral regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''?(-?\d+)''?\) TO \(''?(-?\d+)''?\)') as b(bounds)
 where i.inhparent = 'orchestrator.task'::regclass and b.bounds is not null
 order by b.bounds[1]::bigint;

-- name: highest_default
-- The highest id that landed in the catch-all partition.
select coalesce(max(id), -1) from orchestrator.task_default;

-- name: create_partition
select orchestrator.create_partition(%(low)s, %(high)s);

-- name: short_lock_timeout
select set_config('lock_timeout', '50ms', true);

-- name: unfinished_below
-- Whether a task with an id in the range has not ended, or ended too recently.
select exists (select from orchestrator.staging_queue where task_id >= %(low)s and task_id < %(high)s)
    or exists (select from orchestrator.scheduled_queue where task_id >= %(low)s and task_id < %(high)s)
    or exists (select from orchestrator.task_queue where task_id >= %(low)s and task_id < %(high)s)
    or exists (select from orchestrator.task_attempt
                where task_id >= %(low)s and task_id < %(high)s
                  and ended_at > clock_timestamp() - %(keep_s)s::float8 * interval '1 second');

-- name: lock_pair
-- Both partitions, before the last look at what is in them.
select orchestrator.lock_partition(%(low)s);

-- name: drop_pair
select orchestrator.drop_partition(%(low)s);

-- name: trim_ticks
delete from orchestrator.tick_log where at < clock_timestamp() - %(keep_s)s::float8 * interval '1 second';

-- name: trim_windows
delete from orchestrator.fairness_window where ended_at < clock_timestamp() - %(keep_s)s::float8 * interval '1 second';

-- name: trim_leadership
delete from orchestrator.leadership_log where at < clock_timestamp() - %(keep_s)s::float8 * interval '1 second';

-- name: trim_audit
delete from orchestrator.audit_log where at < clock_timestamp() - %(keep_s)s::float8 * interval '1 second';
