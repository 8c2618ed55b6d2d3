-- Fairness as a signal: one row a window and queue.

-- name: record
-- Windows end when they are written down, by the server's clock.
insert into orchestrator.fairness_window (queue, started_at, ended_at, report)
select %(queue)s, at - %(window_s)s::float8 * interval '1 second', at, %(report)s::jsonb
  from (select clock_timestamp() as at) now
on conflict (queue, started_at) do nothing;

-- name: recent
-- The last windows of a queue, the newest first.
select ended_at, extract(epoch from clock_timestamp() - ended_at)::float8, report::text
  from orchestrator.fairness_window where queue = %(queue)s
 order by queue desc, started_at desc limit %(limit)s;
