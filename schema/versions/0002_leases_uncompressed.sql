-- A lease is written once and deleted soon after: its arrays are not worth compressing. With claims of
-- 500 tasks, compressing them was a seventh of what a claim costs the server.
alter table orchestrator.lease
  alter column dispatch_keys set storage external,
  alter column task_ids set storage external,
  alter column attempts set storage external;
