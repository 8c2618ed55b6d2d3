-- An index whose last column was the queue served, for the planner, any condition on the queue alone. With
-- generic plans, made while the table was all but empty, such an index looked as cheap as the right one: the
-- feed of ended attempts read every attempt (20,900 buffers a look instead of 2,000), the probe every
-- admitted task, a claim every lease. Ids and transactions are of one sequence for all queues, so nothing
-- is less selective without it.
drop index orchestrator.task_attempt_by_task;
create index task_attempt_by_task on orchestrator.task_attempt (task_id);
drop index orchestrator.task_attempt_by_xid;
create index task_attempt_by_xid on orchestrator.task_attempt (xid);

drop index orchestrator.task_queue_one_place;
create unique index task_queue_one_place on orchestrator.task_queue (task_id);

drop index orchestrator.staging_queue_by_xid;
create index staging_queue_by_xid on orchestrator.staging_queue (xid);

drop index orchestrator.lease_by_expiry;
create index lease_by_expiry on orchestrator.lease (expires_at);

-- For the same reason the id is no column of this one: it has the primary key.
drop index orchestrator.scheduled_queue_by_run_at;
create index scheduled_queue_by_run_at on orchestrator.scheduled_queue (queue, run_at);
