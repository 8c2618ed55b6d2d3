-- Recurring tasks.

-- name: due
-- Schedules that are due, or have no next time yet; locked, so that two firing leaders take turns.
select s.id, s.name, s.cron, s.timezone, s.task_name, s.payload::text, s.org_id, q.id, s.queue, s.workload, s.priority,
       s.max_attempts, s.timeout_s, s.next_run_at, clock_timestamp()
  from orchestrator.schedule s left join orchestrator.queue q on q.name = s.queue
 where s.disabled_at is null and (s.next_run_at is null or s.next_run_at <= clock_timestamp())
 order by s.id
 limit 1
   for update of s skip locked;

-- name: until_due
-- In how many seconds the first schedule is due; not above 0 = one is, NULL = there is none.
select date_part('epoch', min(coalesce(next_run_at, clock_timestamp())) - clock_timestamp())
  from orchestrator.schedule where disabled_at is null;

-- name: advance
update orchestrator.schedule
   set next_run_at = %(next_run_at)s, last_run_at = coalesce(%(fired_at)s, last_run_at),
       last_task_id = coalesce(%(task_id)s, last_task_id)
 where id = %(id)s;

-- name: disable
update orchestrator.schedule set disabled_at = clock_timestamp(), disabled_reason = %(reason)s where id = %(id)s;

-- name: list
select name, cron, timezone, task_name, payload::text, org_id, queue, workload, priority, max_attempts, timeout_s,
       next_run_at, last_run_at, last_task_id, disabled_at, disabled_reason
  from orchestrator.schedule order by name;

-- name: set
insert into orchestrator.schedule (name, cron, timezone, task_name, payload, org_id, queue, workload, priority, max_attempts, timeout_s, next_run_at)
values (%(name)s, %(cron)s, %(timezone)s, %(task_name)s, %(payload)s::jsonb, %(org)s, %(queue)s, %(workload)s, %(priority)s,
        %(max_attempts)s, %(timeout_s)s, %(next_run_at)s)
on conflict (name) do update
   set cron = excluded.cron, timezone = excluded.timezone, task_name = excluded.task_name, payload = excluded.payload,
       org_id = excluded.org_id, queue = excluded.queue, workload = excluded.workload, priority = excluded.priority,
       max_attempts = excluded.max_attempts, timeout_s = excluded.timeout_s, next_run_at = excluded.next_run_at,
       disabled_at = null, disabled_reason = null
returning id;

-- name: remove
delete from orchestrator.schedule where name = %(name)s returning id;

-- name: clock
select clock_timestamp();
