"""The scheduler over a trace: what a policy would do, or would have done."""
