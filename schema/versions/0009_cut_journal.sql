-- What a tick changes of orgs and flows is one row of a journal, instead of a new version of each of their rows:
-- a tick over a hundred orgs spent two thirds of its statement on those. The journal is folded into `org_state` and
-- `flow_state` beside the ticks, within a moment, and by every election before the cut is loaded. The previous
-- version updates both tables itself; whoever it takes over from, its election finds them whole.
create table orchestrator.cut_journal (
  queue  integer not null,
  -- Only the leader writes, so the order of the numbers is that of the commits.
  seq    bigint generated always as identity,
  -- How many orgs and flows.
  size   integer not null,
  orgs   text[] not null,
  -- Nine values for each org: tag, virtual time, slots in flight, eligible; the same of its express lane; last admission.
  org_values     bigint[] not null,
  flow_orgs      text[] not null,
  flow_workloads text[] not null,
  -- Four values for each flow: tag, express tag, backlog, cost.
  flow_values    bigint[] not null,
  primary key (queue, seq)
);
comment on table orchestrator.cut_journal is 'what ticks changed of org_state and flow_state, until it is folded into them';
-- Deleted a moment later: not worth compressing.
alter table orchestrator.cut_journal
  alter column orgs set storage external, alter column org_values set storage external,
  alter column flow_orgs set storage external, alter column flow_workloads set storage external,
  alter column flow_values set storage external;

-- Folds the next rows after one: the first, and more while those before it hold fewer than so many orgs and flows.
-- Returns the number of the last, null = there were none. Any number of sessions may fold at once: whoever comes
-- second waits for the first, and goes on with what is left. Locked first, then read in a later statement. `|| '{}'`:
-- the values are taken out of their storage once, and not for each org again.
create function orchestrator.fold_cut(integer, bigint, integer) returns bigint
language plpgsql set search_path = pg_catalog as $$
declare
  of_queue alias for $1;
  after_seq alias for $2;
  most alias for $3;
  seqs bigint[];
begin
  loop
    select array_agg(seq) into seqs
      from (select seq, sum(size) over (order by seq) - size as before
              from (select seq, size from orchestrator.cut_journal
                     where queue = of_queue and seq > after_seq
                     order by queue, seq limit 1000) next_rows) counted
     where before < most;
    if seqs is null then
      return null;
    end if;
    select array_agg(seq) into seqs
      from (select seq from orchestrator.cut_journal
             where queue = of_queue and seq = any (seqs) order by queue, seq for update) locked;
    -- None: somebody else has folded all of them meanwhile.
    exit when seqs is not null;
  end loop;
  insert into orchestrator.org_state as s (queue, org_id, tag, virtual_time, in_flight, eligible, express_tag,
                                           express_virtual_time, express_in_flight, express_eligible, last_admit)
  select distinct on (u.org_id collate "C") of_queue, u.org_id, v[o + 1], v[o + 2], v[o + 3], v[o + 4] <> 0,
         v[o + 5], v[o + 6], v[o + 7], v[o + 8] <> 0, v[o + 9]
    from orchestrator.cut_journal j
   cross join lateral (select j.org_values || '{}'::bigint[] as v offset 0) whole
   cross join lateral (select org_id, (n - 1) * 9 as o from unnest(j.orgs) with ordinality as k(org_id, n)) u
   where j.queue = of_queue and j.seq = any (seqs)
   order by u.org_id collate "C", j.seq desc
  on conflict (queue, org_id) do update
     set tag = excluded.tag, virtual_time = excluded.virtual_time, in_flight = excluded.in_flight,
         eligible = excluded.eligible, express_tag = excluded.express_tag,
         express_virtual_time = excluded.express_virtual_time, express_in_flight = excluded.express_in_flight,
         express_eligible = excluded.express_eligible, last_admit = excluded.last_admit;
  insert into orchestrator.flow_state as s (queue, org_id, workload, tag, express_tag, backlog, cost_us)
  select distinct on (u.org_id collate "C", u.workload collate "C")
         of_queue, u.org_id, u.workload, v[o + 1], v[o + 2], v[o + 3], v[o + 4]
    from orchestrator.cut_journal j
   cross join lateral (select j.flow_values || '{}'::bigint[] as v offset 0) whole
   cross join lateral (select org_id, workload, (n - 1) * 4 as o
                         from unnest(j.flow_orgs, j.flow_workloads) with ordinality as k(org_id, workload, n)) u
   where j.queue = of_queue and j.seq = any (seqs)
   order by u.org_id collate "C", u.workload collate "C", j.seq desc
  on conflict (queue, org_id, workload) do update
     set tag = excluded.tag, express_tag = excluded.express_tag, backlog = excluded.backlog, cost_us = excluded.cost_us;
  delete from orchestrator.cut_journal where queue = of_queue and seq = any (seqs);
  return (select max(seq) from unnest(seqs) as u(seq));
end $$;
-- It does no more than its caller may do with the tables.
grant execute on function orchestrator.fold_cut(integer, bigint, integer) to public;

-- An election, of whatever version, leaves nothing to be folded: nobody writes for the term before any more.
-- With the rights of its owner: the roles that the previous version grants anew know nothing of the journal.
create function orchestrator.term_opened() returns trigger
language plpgsql security definer set search_path = pg_catalog as $$
declare
  last bigint := 0;
begin
  while last is not null loop
    last := orchestrator.fold_cut(new.queue, last, 5000);
  end loop;
  return null;
end $$;
revoke execute on function orchestrator.term_opened() from public;
create trigger term_opened after update of epoch on orchestrator.orchestrator_lock
  for each row execute function orchestrator.term_opened();

-- Who was granted these roles before.
do $$
declare
  grantee text;
  privileges text;
begin
  for grantee, privileges in
    select g.name, case g.role when 'reader' then 'select' else 'select, insert, update, delete' end
      from orchestrator.grantee g join pg_roles r on r.rolname = g.name
     where g.role in ('orchestrator', 'reader')
  loop
    execute format('grant %s on orchestrator.cut_journal to %I', privileges, grantee);
  end loop;
end $$;
