"""A newcomer waits for the next admissions of the others, not for their backlogs."""

import pytest

from tests.support.stepping import SteppedLeader, ack, claim, connect, enqueue, tasks

BACKLOG = 50_000
CHUNK = 5_000
# What may stand before the newcomer's last task: the ready window, and one of the others' tasks for
# each of its own.
BAR = 200


@pytest.mark.timeout(180)
def test_the_newcomers_last_task_is_done_within_200_tasks_of_being_staged(dsn: str) -> None:
    with connect(dsn) as connection:
        for _ in range(BACKLOG // CHUNK):
            enqueue(connection, tasks(CHUNK, org="noisy"))
        leader = SteppedLeader(dsn).elect()
        _work(leader, connection, 300)
        enqueue(connection, tasks(10, org="newcomer"))

        done = _work(leader, connection, 300)

        leader.close()
    last = max(position for position, org in enumerate(done, 1) if org == "newcomer")
    assert done.count("newcomer") == 10
    assert last <= BAR


def _work(leader: SteppedLeader, connection, count: int) -> list[str]:  # type: ignore[no-untyped-def]
    """Claim and ack ten at a time, with a step of the leader in between; return whose tasks
    ended.
    """
    done: list[str] = []
    while len(done) < count:
        leader.step()
        claims = claim(connection, 10)
        assert len(ack(connection, claims)) == len(claims)
        done.extend(task.org for task in claims)
    return done
