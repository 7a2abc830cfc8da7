"""Alerts: a task failed after its last retry, a run is late, or a challenger was refused.

ATSPEED_ALERT_URL receives a JSON POST {"text": ..., "event": ..., ...} (Slack, Mattermost and Teams workflows read
"text"). Without it the alert is an error in the log.
"""

import asyncio
import json
import logging
import os
import urllib.request
from typing import Any

from airflow.sdk import BaseNotifier, Context

SECONDS = 10
MAX_REASON = 2_000  # characters

log = logging.getLogger(__name__)


class FailureAlert(BaseNotifier):
    """A task failed after its last retry."""

    def notify(self, context: Context) -> None:
        """Send the alert; if it cannot be sent, that is logged and does not hide the failure itself."""
        instance = context["ti"]
        reason = str(context.get("exception") or "no reason given")[:MAX_REASON]
        place = f"{instance.dag_id}.{instance.task_id}"
        send(
            "task_failed",
            f"{place} failed: {reason}",
            dag_id=instance.dag_id,
            task_id=instance.task_id,
            map_index=instance.map_index,
            run_id=instance.run_id,
            try_number=instance.try_number,
            reason=reason,
            log_url=instance.log_url,
        )


class RefusalAlert(BaseNotifier):
    """The gate refused a challenger."""

    def notify(self, context: Context) -> None:
        """Send the alert."""
        instance = context["ti"]
        message = (
            f"{instance.dag_id}: a challenger is refused, or waits for approval; the task's log and MLflow say why"
        )
        send("challenger_refused", message, dag_id=instance.dag_id, run_id=instance.run_id)


async def deadline_missed(hours: float, **kwargs: Any) -> None:
    """A run was not done in time; called by Airflow's triggerer."""
    run = (kwargs.get("context") or {}).get("dag_run") or {}
    dag_id, run_id = run.get("dag_id", "?"), run.get("dag_run_id") or run.get("run_id", "?")
    message = f"{dag_id} run {run_id} is not done after {hours:g} hours"
    await asyncio.to_thread(send, "deadline_missed", message, dag_id=dag_id, run_id=run_id)


def send(event: str, message: str, **facts: Any) -> None:
    """POST an alert to ATSPEED_ALERT_URL; log it as an error in any case."""
    url = os.environ.get("ATSPEED_ALERT_URL", "")
    log.error("ALERT %s: %s", event, message)
    if not url.startswith(("http://", "https://")):
        return
    body = json.dumps({"text": message, "event": event, **facts}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
    except OSError as error:
        log.error("the alert could not be sent: %s", type(error).__name__)  # the address may hold a secret
