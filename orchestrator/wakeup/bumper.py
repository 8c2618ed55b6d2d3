"""Moves versions on in Redis when a leader has made work claimable, without ever holding it up.

The leader says so after the commit; a thread of its own tells Redis, usually within a millisecond.
What Redis does not take is told again: until it does, or until every verdict that was given before
has died of age, after which it would change nothing.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import structlog

from orchestrator.config import RedisSettings, redact
from orchestrator.wakeup.empty import VERDICT_TTL_MAX_S
from orchestrator.wakeup.redis import REST_S, Keys, bump_by, opened

log = structlog.get_logger()

_STOP_S = 2.0


class Bumper:
    """A thread that bumps the queues it is given; one of a process, for all queues it leads."""

    def __init__(self, settings: RedisSettings) -> None:
        """Prepare; raises `ConfigError` where the library is missing or the URL is none."""
        self._client = opened(settings, blocking=True)
        self._prefix = settings.prefix
        # By key: the moment at which it was first asked for. Bounded by the number of queues.
        self._wanted: dict[str, float] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="bumper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def bump(self, database: str, queue: int) -> None:
        """Let the version of a queue be moved on; returns at once, and never raises."""
        key = Keys(self._prefix, database).version(queue)
        with self._changed:
            # Anew: what was asked for before is kept no shorter for it.
            self._wanted[key] = time.monotonic()
            self._changed.notify()

    def stop(self) -> None:
        """Tell what is left to tell, if that is quick, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        self._client.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._stopping)
                taken, self._wanted = self._wanted, {}
                last = self._stopping
            if taken and not self._told(list(taken)):
                self._keep(taken)
            if last:
                return

    def _told(self, keys: list[str]) -> bool:
        """Bump keys in one round trip; tell whether Redis took it."""
        try:
            pipe: Any = self._client.pipeline()
            for key in keys:
                bump_by(pipe, key)
            answers = pipe.execute(raise_on_error=False)
            # What cannot be counted on, because it is no number, is taken away.
            if spoilt := [key for i, key in enumerate(keys) if _failed(answers[3 * i + 1])]:
                self._client.delete(*spoilt)
        except Exception as error:  # noqa: BLE001 - a cache: a leader leads on without it
            if not self._failing:
                log.warning("redis.failed", error=redact(str(error)) or type(error).__name__)
            self._failing = True
            return False
        self._failing = False
        return True

    def _keep(self, untold: dict[str, float]) -> None:
        """Put back what is worth telling later, and wait a while."""
        since = time.monotonic() - VERDICT_TTL_MAX_S
        with self._changed:
            for key, asked_at in untold.items():
                if asked_at > since:
                    # The later of the two: who asked again meanwhile asks for the longest.
                    self._wanted.setdefault(key, asked_at)
            self._changed.wait_for(lambda: self._stopping, REST_S)


def _failed(answer: object) -> bool:
    return isinstance(answer, Exception)
