-- What a monitor is shown of a queue, besides what screens are: read-only.

-- name: bounded
-- For one transaction: no reading of figures may go on for long, whatever else it is allowed.
select set_config('statement_timeout', %(timeout_ms)s::text, true);

-- name: overdue
-- For how long the lease that expired first has not been taken back. Expired leases are few.
select coalesce((
  select extract(epoch from clock_timestamp() - expires_at)::float8
    from (select expires_at, queue from orchestrator.lease
           where expires_at <= (select clock_timestamp()) order by expires_at limit 1000) expired
   where queue = %(queue)s
   order by expires_at limit 1), 0);
