"""The demonstration: a noisy neighbour, three quiet orgs, and a leader that is killed halfway.

Everything in it is real: a private PostgreSQL, two replicas and two workers as processes of their
own, tasks that take time. The summary is read from the database.
"""

from orchestrator.demo.run import Demo, Summary

__all__ = ["Demo", "Summary"]
