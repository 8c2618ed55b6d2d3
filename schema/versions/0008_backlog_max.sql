-- How many tasks of an org may wait in a queue before more are refused; null = no bound. The previous version
-- neither reads nor sets it, and enqueues without a look.
-- A new database is migrated in one transaction: what the rows of an earlier step have yet to trigger comes first.
set constraints all immediate;
alter table orchestrator.tier add column backlog_max integer,
  add constraint tier_backlog_max_min check (backlog_max >= 1);
alter table orchestrator.org_config add column backlog_max integer,
  add constraint org_config_backlog_max_min check (backlog_max >= 1);
comment on column orchestrator.org_config.backlog_max is 'NULL = the tier''s; enqueue is refused while so many wait in the queue';
-- Whether anybody has a bound: asked by every process that enqueues, every few seconds.
create index org_config_backlog_max on orchestrator.org_config (org_id) where backlog_max is not null;
set constraints all deferred;

-- Who was granted the role of a producer before: it reads these bounds when it enqueues.
do $$
declare
  grantee text;
begin
  for grantee in select g.name from orchestrator.grantee g join pg_roles r on r.rolname = g.name where g.role = 'producer'
  loop
    execute format('grant select (name, backlog_max) on orchestrator.tier to %I', grantee);
    execute format('grant select (org_id, tier, backlog_max) on orchestrator.org_config to %I', grantee);
  end loop;
end $$;
