"""Why a task waits and when it should start, from one snapshot of facts."""
