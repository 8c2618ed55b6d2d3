-- Preemption. A critical task waits at the top of its flow, above those that the age bound lifted: under
-- -12, which is its only mark in staging, so that no other task pays a byte for it. Where its org is at
-- burst_max, the leader leaves word in the lease of a running task of that org: `yielding`, beside
-- `cancelled`.
-- Beside this, the previous version's code goes on: it never writes -12, admits such a row first (it sorts
-- first), stages it again under 10, and tells its workers nothing of `yielding`. It does not find a staged
-- critical task by its id: to cancel one meanwhile, use the new version.
alter table orchestrator.lease add column yielding bigint[] not null default '{}';

-- Not validated: the old bounds lie within the new ones, and a staging queue may hold millions of rows.
alter table orchestrator.staging_queue drop constraint staging_queue_neg_priority_range;
alter table orchestrator.staging_queue add constraint staging_queue_neg_priority_range
  check (neg_priority between -12 and -1) not valid;
alter table orchestrator.scheduled_queue drop constraint scheduled_queue_neg_priority_range;
alter table orchestrator.scheduled_queue add constraint scheduled_queue_neg_priority_range
  check (neg_priority between -12 and -1) not valid;

-- Which flows hold critical tasks: looked up when a term begins. Holds nothing else.
create index staging_queue_critical on orchestrator.staging_queue (org_id, workload) where neg_priority = -12;
