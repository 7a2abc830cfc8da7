"""The requests of the integration tests to Airflow's REST API."""

import time
from datetime import datetime
from typing import Any

import requests

Json = dict[str, Any]

DONE = ("success", "failed")
POLL_SECONDS = 1.0


class AirflowApi:
    """A logged-in client of /api/v2."""

    def __init__(self, url: str, login: tuple[str, str]) -> None:
        """Get a token."""
        self.url = url
        body = dict(zip(("username", "password"), login, strict=True))
        answer = requests.post(f"{url}/auth/token", json=body, timeout=30)
        answer.raise_for_status()
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, method: str, path: str, **options: Any) -> Json:
        """One request; an error's body is in the message."""
        answer = self.session.request(method, f"{self.url}/api/v2/{path}", timeout=60, **options)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:1000]}"
        return dict(answer.json()) if answer.content else {}

    def unpause(self, dag_id: str) -> None:
        self.call("PATCH", f"dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, run_id: str, **params: Any) -> str:
        self.call("POST", f"dags/{dag_id}/dagRuns", json={"dag_run_id": run_id, "logical_date": None, "conf": params})
        return run_id

    def backfill(self, dag_id: str, first: str, last: str, **params: Any) -> None:
        """Runs of past dates, one after the other."""
        body = {"dag_id": dag_id, "from_date": f"{first}T00:00:00Z", "to_date": f"{last}T23:59:59Z"}
        more = {"dag_run_conf": params, "reprocess_behavior": "none", "max_active_runs": 1, "run_backwards": False}
        self.call("POST", "backfills", json={**body, **more})

    def clear(self, dag_id: str, run_id: str) -> None:
        """Clear a whole run."""
        self.call("POST", f"dags/{dag_id}/dagRuns/{run_id}/clear", json={"dry_run": False, "only_failed": False})

    def runs(self, dag_id: str) -> list[Json]:
        """All runs, oldest first."""
        runs = self.call("GET", f"dags/{dag_id}/dagRuns", params={"limit": 100, "order_by": "run_after"})["dag_runs"]
        return sorted(runs, key=lambda run: run["queued_at"] or "")

    def run(self, dag_id: str, run_id: str) -> Json:
        return self.call("GET", f"dags/{dag_id}/dagRuns/{run_id}")

    def tasks(self, dag_id: str, run_id: str) -> list[Json]:
        """Task instances of a run."""
        return list(
            self.call("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 200})["task_instances"]
        )

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Task (with the index of a mapped one) -> state."""
        return {name(task): task["state"] for task in self.tasks(dag_id, run_id)}

    def log(self, dag_id: str, run_id: str, task: Json) -> str:
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        answer = self.session.get(
            f"{self.url}/api/v2/{path}", params={"map_index": task["map_index"], "full_content": True}, timeout=60
        )
        return answer.text

    def wait_for_run(self, dag_id: str, run_id: str, seconds: float = 900) -> str:
        """Wait until a run is done; returns its state."""
        return str(self.wait(lambda: self._done(dag_id, run_id), f"{dag_id} {run_id}", seconds))

    def wait_for_task(
        self, dag_id: str, run_id: str, task_id: str, states: tuple[str, ...], seconds: float = 600
    ) -> Json:
        """Wait until a task (the first of a mapped one) is in one of `states`."""

        def in_state() -> Json | None:
            matching = [task for task in self.tasks(dag_id, run_id) if task["task_id"] == task_id]
            return next((task for task in matching if task["state"] in states), None)

        return dict(self.wait(in_state, f"{dag_id} {run_id} {task_id} in {states}", seconds))

    def wait_for_new_run(self, dag_id: str, known: set[str], seconds: float = 120) -> str:
        """Wait until a run that is not in `known` exists; returns its id."""

        def new_run() -> str | None:
            return next((r["dag_run_id"] for r in self.runs(dag_id) if r["dag_run_id"] not in known), None)

        return str(self.wait(new_run, f"a new run of {dag_id}", seconds))

    def wait(self, probe: Any, what: str, seconds: float) -> Any:
        """Wait until `probe()` returns a value; the api-server may be down meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if (value := probe()) is not None:
                    return value
            except requests.ConnectionError:
                pass
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(POLL_SECONDS)

    def explain(self, dag_id: str, run_id: str) -> str:
        """States of a run, and the end of the logs of its failed tasks."""
        failed = [task for task in self.tasks(dag_id, run_id) if task["state"] == "failed"]
        logs = [f"{name(task)}:\n{self.log(dag_id, run_id, task)[-6000:]}" for task in failed]
        parts = [str(self.states(dag_id, run_id)), *logs]
        return "\n".join(parts)

    def _done(self, dag_id: str, run_id: str) -> str | None:
        state = self.run(dag_id, run_id)["state"]
        return state if state in DONE else None


def name(task: Json) -> str:
    """Task id, with the index of a mapped task."""
    return task["task_id"] if task["map_index"] < 0 else f"{task['task_id']}[{task['map_index']}]"


def seconds_of(task: Json) -> tuple[float, float]:
    """Start and end of a task instance, unix seconds."""
    return tuple(datetime.fromisoformat(task[key]).timestamp() for key in ("start_date", "end_date"))  # type: ignore[return-value]
