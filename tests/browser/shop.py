"""Handlers of the shop whose dashboard is looked at."""

from __future__ import annotations

import time

from orchestrator.worker.app import App, Task

app = App()


def _work(task: Task) -> None:
    time.sleep(task.payload["takes_s"])


for _name in ("render-preview", "transcribe", "sync-crm", "embed-documents", "send-invoice"):
    app.task(_name)(_work)


@app.task("charge-card")
def charge_card(task: Task) -> None:
    """Fail as a payment provider does, now and then for good."""
    time.sleep(task.payload["takes_s"])
    if task.payload["declined"]:
        raise RuntimeError("card_declined: the provider answered 402 Payment Required")
