-- Why: database roles with no more privileges than their verbs need.
--
-- Partitions are made and dropped at run time, and only the owner of a table may do either. So the
-- functions that do it run as the owner, and whoever may lead is granted the functions instead of the
-- tables. By default everybody may execute a function: from here on nobody may who was not granted it.
-- (A trigger needs no such grant; without it nobody hangs these on a table of their own.)

alter function orchestrator.create_partition(bigint, bigint) security definer;
alter function orchestrator.lock_partition(bigint) security definer;
alter function orchestrator.drop_partition(bigint) security definer;

revoke all on all functions in schema orchestrator from public;

-- Who was granted what, so that a migration can give them what they need of new tables.
create table orchestrator.grantee (
  name text not null,
  role text not null,
  primary key (name, role),
  constraint grantee_role_known check (role in ('producer', 'worker', 'reader', 'orchestrator'))
);
comment on table orchestrator.grantee is 'database roles and what they are here for; written by `orchestrator grant`';
