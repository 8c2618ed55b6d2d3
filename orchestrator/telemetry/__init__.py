"""What a process tells about itself: health, metrics, spans.

Each process has one of each, so they are module globals, like the log: `metrics` holds every name
and help, `health` knows which loops turn, `figures` what the leader last saw of its queues,
`listener` serves them, `tracing` makes spans where that is switched on. Nothing here touches the
database: a probe or a scrape costs it nothing, and tells the truth while it is away.
"""
