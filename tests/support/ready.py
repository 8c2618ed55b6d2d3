"""Admitted tasks put into the task queue by hand, for tests of what comes after admission."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.store.names import EXPRESS_SHIFT
from tests.support.stage import Stage

_PUT = """
with put as (
  insert into orchestrator.task (queue, id, org_id, workload, priority, name, payload, max_attempts, timeout_s)
  select 1, nextval('orchestrator.task_id'), 'a', %(workload)s, %(priority)s, %(name)s, %(payload)s, 5, %(timeout_s)s
    from generate_series(1, %(count)s)
  returning id
)
insert into orchestrator.task_queue (queue, dispatch_key, task_id, org_id, workload, priority, attempt, lost,
                                     expires_at, charged_us, weight, share, reserved)
select 1, 16 * id + %(first)s, id, 'a', %(workload)s, %(priority)s, 0, 0, %(expires_at)s,
       %(charged_us)s, %(weight)s, %(share)s, %(express)s
  from put
returning task_id, dispatch_key"""  # noqa: E501 - one column list a line


def put_ready(
    stage: Stage,
    count: int = 1,
    *,
    name: str = "t",
    express: bool = False,
    priority: int = 5,
    payload: Any = None,
    timeout_s: float | None = None,
    expires_at: str = "infinity",
    charged_us: int = 1_000,
    weight: int = 1,
    share: int = 1,
) -> list[int]:
    """Put `count` tasks of the default queue where workers claim them; return their ids in order.

    Express ones get keys of the express range. No leader may be at work.
    """
    params = {
        "count": count,
        "name": name,
        "workload": "api" if express else "etl",
        "express": express,
        "first": -EXPRESS_SHIFT if express else 0,
        "priority": priority,
        "payload": json.dumps(payload),
        "timeout_s": timeout_s,
        "expires_at": expires_at,
        "charged_us": charged_us,
        "weight": weight,
        "share": share,
    }
    rows = stage.db.execute(_PUT.encode(), params).fetchall()
    return [task_id for task_id, _ in sorted(rows, key=lambda row: row[1])]
