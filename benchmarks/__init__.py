"""Benchmarks: each measures one promise, on a real server with durability on, in one run.

A speed is given as a ratio to something measured beside it in the same run, never alone.
"""
