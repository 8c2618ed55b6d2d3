"""What must hold after every commit, read from the tables alone."""

from __future__ import annotations

from typing import Any, LiteralString

from psycopg import Connection

# Each statement returns the rows that break a rule, all within one snapshot.
RULES: dict[str, LiteralString] = {
    "a task is in at most one place": """
        select task_id, array_agg(place) from (
          select task_id, 'staged' as place from orchestrator.staging_queue
          union all select task_id, 'scheduled' from orchestrator.scheduled_queue
          union all select task_id, 'admitted' from orchestrator.task_queue) places
         group by task_id having count(*) > 1""",
    "a task that is in no place has ended": """
        select id from orchestrator.task t
         where not exists (select from orchestrator.staging_queue where task_id = t.id)
           and not exists (select from orchestrator.scheduled_queue where task_id = t.id)
           and not exists (select from orchestrator.task_queue where task_id = t.id)
           and not exists (select from orchestrator.task_attempt where task_id = t.id and final)""",
    "a claimed row is leased": """
        select q.dispatch_key, q.claim_id from orchestrator.task_queue q
         where q.claim_id is not null and not exists (
           select from orchestrator.lease l where l.queue = q.queue and l.claim_id = q.claim_id
              and q.dispatch_key = any (l.dispatch_keys))""",
    "no unclaimed key lies below the floor": """
        select queue, dispatch_key from orchestrator.task_queue
         where claim_id is null and dispatch_key >= -2305843009213693952
           and dispatch_key < pg_sequence_last_value(('orchestrator.floor_' || queue)::regclass)""",
    "no unclaimed key of express work lies below its floor": """
        select queue, dispatch_key from orchestrator.task_queue
         where claim_id is null and dispatch_key < pg_sequence_last_value(
                 ('orchestrator.express_floor_' || queue)::regclass)""",
    "no org holds fewer than no slots": """
        select s.org_id from orchestrator.org_state s
         where s.in_flight < 0 or s.express_in_flight < 0""",
    "an overrun belongs to an attempt that was not settled yet": """
        select o.dispatch_key from orchestrator.overrun o
         where not exists (select from orchestrator.task_queue q
                            where q.queue = o.queue and q.dispatch_key = o.dispatch_key)
           and not exists (select from orchestrator.task_attempt a
                            where a.queue = o.queue and a.dispatch_key = o.dispatch_key)""",
    "a removal from the task queue is written down once": """
        select queue, dispatch_key, array_agg(status) from orchestrator.task_attempt
         where dispatch_key is not null group by queue, dispatch_key having count(*) > 1""",
    "what left the task queue is not in it": """
        select dispatch_key from orchestrator.task_attempt join orchestrator.task_queue
         using (queue, dispatch_key)""",
    "a key belongs to an unfinished task": """
        select key, task_id from orchestrator.idempotency_key k
         where not exists (select from orchestrator.staging_queue where task_id = k.task_id)
           and not exists (select from orchestrator.scheduled_queue where task_id = k.task_id)
           and not exists (select from orchestrator.task_queue where task_id = k.task_id)""",
}


def check(db: Connection[Any]) -> None:
    """Assert every rule; `db` is any connection that no transaction is open on."""
    broken = {rule: rows for rule, query in RULES.items() if (rows := db.execute(query).fetchall())}
    assert not broken, broken
