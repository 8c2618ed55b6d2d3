-- Why: the whole path of a task, from enqueue through fair admission to its end.
--
-- A state is a table and a move is delete + insert, so that at every commit a task is in exactly one
-- of staging_queue, scheduled_queue, task_queue, or ended (its last task_attempt row is final).
-- Every hot table has `queue`, the shard key for later. Of a table's indexes only one leads with it:
-- a queue that was analysed while empty makes the planner expect one row, and then an index that
-- matches on `queue` alone looks as cheap as the right one, and reads the whole queue. No foreign keys, no savepoints and no
-- counters on the hot path: each of them costs multixacts or hot rows.

create schema if not exists orchestrator;

-- Configuration ---------------------------------------------------------------------------------

create table orchestrator.tier (
  name       text primary key,
  weight     integer not null,
  rank       integer not null,
  burst_max  integer,
  constraint tier_name_length    check (length(name) between 1 and 200),
  constraint tier_weight_range   check (weight between 1 and 1000000),
  constraint tier_burst_max_min  check (burst_max >= 1)
);
comment on table orchestrator.tier is 'L1: classes of orgs; weight for the weighted policy, rank for the strict one';

create table orchestrator.workload (
  name          text primary key,
  share         integer not null,
  rank          integer not null,
  express       boolean not null default false,
  express_max_s double precision,
  constraint workload_name_length   check (length(name) between 1 and 200),
  constraint workload_share_range   check (share between 1 and 1000000),
  constraint workload_express_max_s check (express_max_s > 0)
);
comment on table orchestrator.workload is 'L2: classes of an org''s own work; share divides the org''s part';

create table orchestrator.queue (
  id         integer generated always as identity primary key,
  name       text not null,
  policy     text not null default 'weighted',
  cost_mode  text not null default 'time',
  capacity   integer,
  headroom   double precision,
  express_reserve integer,
  ready_max  integer,
  kappa      integer not null default 100,
  max_wait_s double precision,
  paused_at  timestamptz,
  constraint queue_name_unique    unique (name),
  constraint queue_name_length    check (length(name) between 1 and 200),
  constraint queue_policy_known   check (policy in ('weighted', 'strict')),
  constraint queue_cost_known     check (cost_mode in ('count', 'time')),
  constraint queue_capacity_min   check (capacity >= 1),
  constraint queue_headroom_min   check (headroom > 0),
  -- Headroom is a part of what the capacity leaves: without a capacity it means nothing.
  constraint queue_headroom_needs_capacity check (headroom is null or capacity is not null),
  constraint queue_express_reserve_min check (express_reserve >= 0),
  constraint queue_ready_max_min  check (ready_max >= 1),
  constraint queue_kappa_range    check (kappa between 0 and 1000000),
  constraint queue_max_wait_s_min check (max_wait_s > 0)
);
comment on table orchestrator.queue is 'a lane of work: the domain of fairness, capacity and leadership';
comment on column orchestrator.queue.headroom is 'an org may hold at most this multiple of the slots that are free; NULL = no such bound';
comment on column orchestrator.queue.express_reserve is 'slots only express work may use; NULL = a tenth; 0 = none';

create table orchestrator.org_config (
  org_id        text primary key,
  tier          text not null default 'standard' references orchestrator.tier (name),
  weight        integer,
  burst_max     integer,
  paused_at     timestamptz,
  paused_reason text,
  xid           xid8 not null default pg_current_xact_id(),
  constraint org_config_org_length    check (length(org_id) between 1 and 200),
  constraint org_config_weight_range  check (weight between 1 and 1000000),
  constraint org_config_burst_max_min check (burst_max >= 1)
);
comment on column orchestrator.org_config.burst_max is 'NULL = the tier''s; 0 is refused: pause the org instead';
comment on column orchestrator.org_config.xid is 'who wrote it last: the leader reads only what changed since its last snapshot';
-- The leader's feed of changed orgs.
create index org_config_by_xid on orchestrator.org_config (xid);

-- Tasks -----------------------------------------------------------------------------------------

create sequence orchestrator.task_id as bigint;

create table orchestrator.task (
  queue           integer not null,
  id              bigint not null,
  org_id          text not null,
  workload        text not null,
  priority        smallint not null,
  name            text not null,
  payload         jsonb,
  max_attempts    integer not null,
  timeout_s       double precision,
  created_at      timestamptz not null default clock_timestamp(),
  run_at          timestamptz,
  expires_at      timestamptz not null default 'infinity',
  idempotency_key text,
  digest          bytea,
  headers         jsonb,
  critical        boolean not null default false,
  primary key (queue, id),
  constraint task_org_length         check (length(org_id) between 1 and 200),
  constraint task_name_length        check (length(name) between 1 and 200),
  constraint task_priority_range     check (priority between 1 and 10),
  constraint task_max_attempts_range check (max_attempts between 1 and 1000),
  constraint task_timeout_s_min      check (timeout_s > 0)
) partition by range (id);
comment on table orchestrator.task is 'the durable record, written once; partitioned by id so that retention drops, never deletes';
-- Catches what outruns the partitions created ahead: an enqueue never fails for a late chore.
create table orchestrator.task_default partition of orchestrator.task default;

create table orchestrator.task_attempt (
  queue        integer not null,
  task_id      bigint not null,
  attempt      integer not null,
  status       text not null,
  final        boolean not null,
  dispatch_key bigint,
  org_id       text not null,
  workload     text not null,
  charged_us   bigint not null default 0,
  cost_us      bigint not null default 0,
  weight       integer not null default 1,
  share        integer not null default 1,
  reserved     boolean not null default false,
  claimed_at   timestamptz,
  ended_at     timestamptz not null default clock_timestamp(),
  worker       text,
  error        text,
  xid          xid8 not null default pg_current_xact_id(),
  constraint task_attempt_status_known check (status in
    ('succeeded', 'failed', 'lost', 'expired', 'cancelled', 'released', 'snoozed', 'discarded', 'dead'))
) partition by range (task_id);
comment on table orchestrator.task_attempt is 'append-only; each removal from task_queue writes one row with its dispatch key: the feed that frees slots';
comment on column orchestrator.task_attempt.charged_us is 'worker time charged so far, in microseconds; settled to cost_us at the same weight and share';
comment on column orchestrator.task_attempt.cost_us is 'worker time the attempt took, in microseconds; 0 if it never started';
-- History of a task.
create index task_attempt_by_task on orchestrator.task_attempt (task_id, queue);
-- The leader's feed of ended attempts.
create index task_attempt_by_xid on orchestrator.task_attempt (xid, queue);
create table orchestrator.task_attempt_default partition of orchestrator.task_attempt default;

create table orchestrator.staging_queue (
  queue        integer not null,
  org_id       text not null,
  workload     text not null,
  neg_priority smallint not null,
  task_id      bigint not null,
  attempt      integer not null default 0,
  lost         smallint not null default 0,
  expires_at   timestamptz not null default 'infinity',
  xid          xid8 not null default pg_current_xact_id(),
  -- -11 is a task lifted to the top of its flow by the age bound.
  constraint staging_queue_neg_priority_range check (neg_priority between -11 and -1),
  primary key (queue, org_id, workload, neg_priority, task_id)
);
comment on table orchestrator.staging_queue is 'eligible tasks that wait for admission; the key is the order inside a flow';
-- The leader's feed of new work.
create index staging_queue_by_xid on orchestrator.staging_queue (xid, queue);
-- The sweep of deadlines; costs nothing for tasks without one.
create index staging_queue_by_deadline on orchestrator.staging_queue (queue, expires_at)
  where expires_at < 'infinity';

create table orchestrator.scheduled_queue (
  queue        integer not null,
  task_id      bigint not null,
  run_at       timestamptz not null,
  org_id       text not null,
  workload     text not null,
  neg_priority smallint not null,
  attempt      integer not null default 0,
  lost         smallint not null default 0,
  expires_at   timestamptz not null default 'infinity',
  constraint scheduled_queue_neg_priority_range check (neg_priority between -11 and -1),
  primary key (task_id, queue)
);
comment on table orchestrator.scheduled_queue is 'tasks that are not due yet: delays and retry backoff';
create index scheduled_queue_by_run_at on orchestrator.scheduled_queue (queue, run_at, task_id);
create index scheduled_queue_by_deadline on orchestrator.scheduled_queue (queue, expires_at)
  where expires_at < 'infinity';

create table orchestrator.task_queue (
  queue        integer not null,
  dispatch_key bigint not null,
  task_id      bigint not null,
  org_id       text not null,
  workload     text not null,
  priority     smallint not null,
  attempt      integer not null,
  lost         smallint not null,
  expires_at   timestamptz not null,
  charged_us   bigint not null,
  weight       integer not null,
  share        integer not null,
  reserved     boolean not null,
  claim_id     uuid,
  claimed_at   timestamptz,
  constraint task_queue_priority_range check (priority between 1 and 10),
  primary key (queue, dispatch_key)
) with (fillfactor = 50);
comment on table orchestrator.task_queue is 'admitted and unfinished; only the leader inserts, and a claim id never goes back to NULL';
comment on column orchestrator.task_queue.dispatch_key is 'order of claims; the keys of express work lie below -2^61';
comment on column orchestrator.task_queue.reserved is 'holds a slot of the express reserve, and is charged to the express lane';
-- No index names the claim state, so a claim is a HOT update (hence the fillfactor).
create unique index task_queue_one_place on orchestrator.task_queue (task_id, queue);
create index task_queue_by_deadline on orchestrator.task_queue (queue, expires_at)
  where expires_at < 'infinity';

create table orchestrator.lease (
  queue         integer not null,
  claim_id      uuid not null,
  worker        text not null,
  expires_at    timestamptz not null,
  dispatch_keys bigint[] not null,
  task_ids      bigint[] not null,
  attempts      integer[] not null,
  cancelled     bigint[] not null default '{}',
  claimed_at    timestamptz not null default clock_timestamp(),
  primary key (queue, claim_id)
) with (fillfactor = 70);
comment on table orchestrator.lease is 'one row per claim call: extending a batch touches one row';
create index lease_by_expiry on orchestrator.lease (expires_at, queue);

create table orchestrator.idempotency_key (
  queue   integer not null,
  org_id  text not null,
  key     text not null,
  task_id bigint not null,
  digest  bytea not null,
  constraint idempotency_key_length check (length(key) between 1 and 200),
  primary key (queue, org_id, key)
);
comment on table orchestrator.idempotency_key is 'keys of unfinished tasks; the end of a task frees its key';
create index idempotency_key_by_task on orchestrator.idempotency_key (task_id, queue);

-- The leader's exact cut ------------------------------------------------------------------------
-- Written in the tick's own transaction, so a takeover resumes where the last commit stood. The
-- leader updates these rows by ctid: under a held snapshot an index would walk every dead version.

create table orchestrator.org_state (
  queue        integer not null,
  org_id       text not null,
  tag          bigint not null,
  virtual_time bigint not null,
  in_flight    integer not null,
  last_admit   bigint not null,
  express_tag          bigint not null,
  express_virtual_time bigint not null,
  express_in_flight    integer not null,
  -- Whether it was in line: who was not gets no credit for the time until it is.
  eligible             boolean not null,
  express_eligible     boolean not null,
  primary key (queue, org_id)
) with (fillfactor = 50);

create table orchestrator.flow_state (
  queue    integer not null,
  org_id   text not null,
  workload text not null,
  tag      bigint not null,
  backlog  bigint not null,
  express_tag bigint not null,
  cost_us  bigint not null,
  primary key (queue, org_id, workload)
) with (fillfactor = 50);

create table orchestrator.overrun (
  queue        integer not null,
  dispatch_key bigint not null,
  charged_us   bigint not null,
  primary key (queue, dispatch_key)
) with (fillfactor = 70);
comment on table orchestrator.overrun is 'what attempts that outlasted their charge have been charged by now; until they are settled';

create table orchestrator.queue_state (
  queue             integer primary key,
  virtual_time      bigint not null default 0,
  admit_seq         bigint not null default 0,
  kappa             integer not null default 100,
  contended         boolean not null default false,
  cost_us           bigint not null default 0,
  express_virtual_time bigint not null default 0,
  express_contended boolean not null default false,
  -- The feeds resume from here: each snapshot is the right edge of what was read.
  staging_snapshot  text not null default '1:1:',
  attempt_snapshot  text not null default '1:1:',
  system_identifier bigint not null default 0
) with (fillfactor = 10);

create table orchestrator.orchestrator_lock (
  queue       integer primary key,
  epoch       bigint not null default 0,
  term        uuid not null default gen_random_uuid(),
  holder      text not null default '',
  backend_pid integer not null default 0,
  timeline    integer not null default 0,
  elected_at  timestamptz not null default clock_timestamp()
);
comment on table orchestrator.orchestrator_lock is 'the fence: a tick commits only while (epoch, term) are its own; UPDATEd only by an election';

create table orchestrator.leadership_log (
  id          bigint generated always as identity primary key,
  queue       integer not null,
  epoch       bigint not null,
  term        uuid not null,
  holder      text not null,
  timeline    integer not null,
  event       text not null,
  reason      text,
  at          timestamptz not null default clock_timestamp(),
  constraint leadership_log_event_known check (event in ('elected', 'resigned', 'lost', 'refused', 'repaired'))
);
create index leadership_log_by_queue on orchestrator.leadership_log (queue, id);

create table orchestrator.tick_log (
  queue      integer not null,
  admit_seq  bigint not null,
  epoch      bigint not null,
  at         timestamptz not null default clock_timestamp(),
  settled    integer not null,
  admitted   integer not null,
  ready      integer not null,
  window_max integer not null,
  in_flight  integer not null,
  tick_us    integer not null,
  orgs       text[] not null,
  workloads  text[] not null,
  counts     integer[] not null
);
comment on table orchestrator.tick_log is 'what each tick that did something decided; kept 24 h';
create index tick_log_by_time on orchestrator.tick_log (queue, at);

-- Periodic work, signals, audit -----------------------------------------------------------------

create table orchestrator.schedule (
  id              bigint generated always as identity primary key,
  name            text not null,
  cron            text not null,
  timezone        text not null default 'UTC',
  task_name       text not null,
  payload         jsonb,
  org_id          text not null,
  queue           text not null default 'default',
  workload        text not null default 'etl',
  priority        smallint not null default 5,
  max_attempts    integer not null default 5,
  timeout_s       double precision,
  next_run_at     timestamptz,
  last_run_at     timestamptz,
  last_task_id    bigint,
  disabled_at     timestamptz,
  disabled_reason text,
  constraint schedule_name_unique    unique (name),
  constraint schedule_name_length    check (length(name) between 1 and 200),
  constraint schedule_priority_range check (priority between 1 and 10),
  -- What a task must be, a schedule must be too: a row that cannot fire would stop the rows after it.
  constraint schedule_task_name_length check (length(task_name) between 1 and 200),
  constraint schedule_org_length       check (length(org_id) between 1 and 200),
  constraint schedule_attempts_range   check (max_attempts between 1 and 1000),
  constraint schedule_timeout_s_min    check (timeout_s > 0)
);

create table orchestrator.fairness_window (
  queue      integer not null,
  started_at timestamptz not null,
  ended_at   timestamptz not null,
  report     jsonb not null,
  primary key (queue, started_at)
);

create table orchestrator.api_token (
  id         bigint generated always as identity primary key,
  name       text not null,
  digest     bytea not null,
  scope      text not null,
  org_id     text,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  constraint api_token_digest_unique unique (digest),
  constraint api_token_scope_known   check (scope in ('producer', 'worker', 'admin', 'reader'))
);

create table orchestrator.audit_log (
  id     bigint generated always as identity primary key,
  at     timestamptz not null default clock_timestamp(),
  actor  text not null,
  verb   text not null,
  object text not null,
  change jsonb not null default '{}'
);

-- Partitions -------------------------------------------------------------------------------------

-- Creates the pair of partitions [low, high) of task and task_attempt; does nothing if they exist.
create function orchestrator.create_partition(low bigint, high bigint) returns void
language plpgsql set search_path = pg_catalog as $$
begin
  execute format('create table if not exists orchestrator.task_p%s partition of orchestrator.task for values from (%s) to (%s)',
                 low, low, high);
  execute format('create table if not exists orchestrator.task_attempt_p%s partition of orchestrator.task_attempt for values from (%s) to (%s)',
                 low, low, high);
end $$;

-- Takes both partitions that begin at `low`, against every writer, for the caller's transaction.
create function orchestrator.lock_partition(low bigint) returns void
language plpgsql set search_path = pg_catalog as $$
begin
  execute format('lock table orchestrator.task_p%s, orchestrator.task_attempt_p%s in access exclusive mode', low, low);
end $$;

create function orchestrator.drop_partition(low bigint) returns void
language plpgsql set search_path = pg_catalog as $$
begin
  execute format('drop table orchestrator.task_p%s, orchestrator.task_attempt_p%s', low, low);
end $$;

select orchestrator.create_partition(0, 1000000);
select orchestrator.create_partition(1000000, 2000000);
select orchestrator.create_partition(2000000, 3000000);

-- A queue brings its sequences: `floor_<id>` and `express_floor_<id>` (no unclaimed key of that range of
-- keys lies below it) and `doze_<id>`
-- (1 awake; 2 dozing, wake me for new work; 3 dozing, wake me for freed slots too). Sequences,
-- because both are read by every claim or enqueue and must leave no dead rows.
create function orchestrator.queue_created() returns trigger
language plpgsql security definer set search_path = pg_catalog as $$
begin
  execute format('create sequence orchestrator.floor_%s as bigint minvalue -9223372036854775808 start -9223372036854775808', new.id);
  execute format('create sequence orchestrator.express_floor_%s as bigint minvalue -9223372036854775808 start -9223372036854775808', new.id);
  execute format('create sequence orchestrator.doze_%s as bigint minvalue 1 maxvalue 3', new.id);
  insert into orchestrator.orchestrator_lock (queue) values (new.id);
  insert into orchestrator.queue_state (queue, kappa) values (new.id, new.kappa);
  return null;
end $$;

create trigger queue_created after insert on orchestrator.queue
  for each row execute function orchestrator.queue_created();

-- Configuration and ticks take turns -------------------------------------------------------------
-- A change of configuration takes the leadership rows at its commit, then moves config_version on.
-- So it waits for a tick in progress, and the next tick, which reads the version after its fence,
-- sees it: once a change is acknowledged, no later admission is decided by the old value.
-- Deferred to the commit, so that an open transaction of an operator stalls nobody.

create sequence orchestrator.config_version as bigint;
-- A deleted row leaves nothing for the feed to read: this one says "read every org again".
create sequence orchestrator.config_deletes as bigint;

create function orchestrator.config_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog as $$
declare
  mark text := pg_catalog.pg_current_xact_id()::text;
begin
  if coalesce(current_setting('orchestrator.config_fenced', true), '') <> mark then
    perform 1 from orchestrator.orchestrator_lock order by queue for update;
    perform set_config('orchestrator.config_fenced', mark, true);
    perform nextval('orchestrator.config_version');
  end if;
  if tg_op = 'DELETE' then
    perform nextval('orchestrator.config_deletes');
  end if;
  return null;
end $$;

create function orchestrator.org_config_stamp() returns trigger
language plpgsql set search_path = pg_catalog as $$
begin
  new.xid := pg_current_xact_id();
  return new;
end $$;

create trigger org_config_stamp before insert or update on orchestrator.org_config
  for each row execute function orchestrator.org_config_stamp();

create constraint trigger org_config_changed after insert or update or delete on orchestrator.org_config
  deferrable initially deferred for each row execute function orchestrator.config_changed();
create constraint trigger tier_changed after insert or update on orchestrator.tier
  deferrable initially deferred for each row execute function orchestrator.config_changed();
create constraint trigger workload_changed after insert or update on orchestrator.workload
  deferrable initially deferred for each row execute function orchestrator.config_changed();
create constraint trigger queue_changed after insert or update on orchestrator.queue
  deferrable initially deferred for each row execute function orchestrator.config_changed();

-- A shadow policy --------------------------------------------------------------------------------

create table orchestrator.shadow_policy (
  queue    integer primary key,
  settings text[] not null,
  set_at   timestamptz not null default clock_timestamp(),
  set_by   text not null
);
comment on table orchestrator.shadow_policy is 'a candidate that is compared with the live policy of a queue; no settings = none';

create table orchestrator.shadow_report (
  queue      integer primary key,
  set_at     timestamptz not null,
  started_at timestamptz not null,
  updated_at timestamptz not null,
  report     jsonb,
  failure    text,
  constraint shadow_report_says_something check (report is not null or failure is not null)
);
comment on table orchestrator.shadow_report is 'the comparison so far; set_at is that of the policy it is about';

-- Cleared by an update: a deleted row would make every leader read every org again.
create constraint trigger shadow_policy_changed after insert or update on orchestrator.shadow_policy
  deferrable initially deferred for each row execute function orchestrator.config_changed();

-- Sensible rows -----------------------------------------------------------------------------------

insert into orchestrator.tier (name, weight, rank, burst_max) values
  ('enterprise', 10, 1, null),
  ('premium',     5, 2, null),
  ('standard',    2, 5, null),
  ('free',        1, 9, 50);

insert into orchestrator.workload (name, share, rank) values
  ('api', 8, 1),
  ('etl', 2, 2);

insert into orchestrator.queue (name) values ('default');
