"""The policies of every DAG and task; tests/dags/test_policies.py checks that all of them follow these."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference

from atspeed_dags.alerts import FailureAlert, deadline_missed

OWNER = "ml-platform"
RETRIES = int(os.environ.get("ATSPEED_RETRIES") or 3)
RETRY_SECONDS = float(os.environ.get("ATSPEED_RETRY_SECONDS") or 60)
MAX_RETRY_DELAY = timedelta(minutes=20)


@dataclass(frozen=True)
class Place:
    """Where a task may run.

    Attributes:
        queue: of the workers that take it (Celery, or a pod template by queue on Kubernetes).
        pool: whose slots it needs; `gpu` has one per GPU.
        cpus: cores that it requests.
        ram: memory that it requests, MB.
        gpus: GPUs that it requests.
    """

    queue: str
    pool: str
    cpus: int
    ram: int
    gpus: int = 0

    def options(self, minutes: float) -> dict[str, Any]:
        """Operator options of a task that may take `minutes`."""
        return {
            "queue": self.queue,
            "pool": self.pool,
            "resources": {"cpus": self.cpus, "ram": self.ram, "gpus": self.gpus},
            "execution_timeout": timedelta(minutes=minutes),
        }


CPU = Place("cpu", "default_pool", cpus=2, ram=4_096)
LARGE_CPU = Place("cpu", "default_pool", cpus=4, ram=16_384)
GPU = Place("gpu", "gpu", cpus=4, ram=32_768, gpus=1)

TASK_DEFAULTS: dict[str, Any] = {
    "owner": OWNER,
    "retries": RETRIES,
    "retry_delay": timedelta(seconds=RETRY_SECONDS),
    "retry_exponential_backoff": True,
    "max_retry_delay": MAX_RETRY_DELAY,
    "on_failure_callback": FailureAlert(),
}


def dag_options(tag: str, *, late_hours: float, max_hours: float) -> dict[str, Any]:
    """Options of a DAG that follows the policies: one run at a time, none for the past, each of bounded length.

    Args:
        tag: what the DAG is about.
        late_hours: an alert is sent when a run is not done this long after it was queued.
        max_hours: a run that takes longer fails.
    """
    return {
        "start_date": datetime(2016, 1, 1, tzinfo=UTC),
        "catchup": False,
        "max_active_runs": 1,
        "dagrun_timeout": timedelta(hours=max_hours),
        "deadline": _deadline(late_hours),
        "default_args": TASK_DEFAULTS,
        "tags": ["atspeed", tag],
    }


def _deadline(hours: float) -> DeadlineAlert:
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=hours),
        callback=AsyncCallback(deadline_missed, kwargs={"hours": hours}),
    )
