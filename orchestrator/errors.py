"""Every error this package raises, each with the sentence it stands for.

One base, so that `except OrchestratorError` catches them all. The driver's own errors are chained
with `from`. A row that was raced away is an outcome of a verb, not an error.
"""


class OrchestratorError(Exception):
    """Something the caller can act on; the message says what to do next."""


class ConfigError(OrchestratorError):
    """The configuration or the environment cannot work as given."""


class InvalidInput(OrchestratorError, ValueError):
    """An argument is outside what is accepted; nothing was stored."""


class PayloadError(InvalidInput):
    """A stored payload cannot be decoded as JSON by this Python."""


class DatabaseUnavailable(OrchestratorError):
    """The database did not answer; the verb may be tried again."""

    # The connection broke before the answer came: what was asked for may have been done.
    in_doubt = False


class PrivilegeMissing(OrchestratorError):
    """The database role lacks a privilege that the verb needs; `orchestrator grant` gives it."""


class SchemaMismatch(OrchestratorError):
    """The database's schema is missing, or newer or older than this code can use."""


class TaskNotFound(OrchestratorError):
    """No task has this id."""


class UnknownOrg(OrchestratorError):
    """No org of this name is configured and none of its tasks are known."""


class UnknownQueue(OrchestratorError):
    """No queue has this name."""


class UnknownWorkload(OrchestratorError):
    """No workload has this name."""


class UnknownTier(OrchestratorError):
    """No tier has this name."""


class UnknownSchedule(OrchestratorError):
    """No schedule has this name."""


class UnknownToken(OrchestratorError):
    """No token of this name is in use."""


class TokenExists(OrchestratorError):
    """A token of this name is in use; nothing was stored."""


class IdempotencyConflict(OrchestratorError):
    """An unfinished task holds this idempotency key with another request; nothing was stored."""


class BacklogFull(OrchestratorError):
    """As many tasks of the org wait as its backlog_max allows; nothing was stored."""

    retry_after_s = 5.0


class TaskUnfinished(OrchestratorError):
    """The task has not ended, so it cannot be retried."""


class LeaseLost(OrchestratorError):
    """A claim no longer stands: its lease expired, or the task was finished elsewhere."""


class LeadershipLost(OrchestratorError):
    """This process no longer leads the queue; everything it had in memory is void."""


class LeadershipRefused(OrchestratorError):
    """This connection must not lead: a standby, a transaction pooler, or a setting that differs."""
