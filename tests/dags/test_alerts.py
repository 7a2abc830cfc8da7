"""Alerts against a real HTTP server."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from atspeed_dags.alerts import FailureAlert, deadline_missed, send


class Receiver(HTTPServer):
    """Collects the alerts that it receives."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.alerts: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.alerts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("ATSPEED_ALERT_URL", f"http://127.0.0.1:{server.server_port}/hook")
    yield server
    server.shutdown()


class Instance:
    dag_id, task_id, map_index, run_id, try_number, log_url = "d", "t", -1, "r", 4, "http://localhost/log"


def test_a_failure_names_task_run_and_reason(receiver: Receiver) -> None:
    context: Any = {"ti": Instance(), "exception": ValueError("row 3 is wrong")}
    FailureAlert().notify(context)
    (alert,) = receiver.alerts
    assert alert["text"] == "d.t failed: row 3 is wrong"
    assert (alert["event"], alert["run_id"], alert["try_number"]) == ("task_failed", "r", 4)


def test_a_missed_deadline_is_reported(receiver: Receiver) -> None:
    asyncio.run(deadline_missed(hours=2.0, context={"dag_run": {"dag_id": "d", "dag_run_id": "r"}}))
    assert receiver.alerts[0]["text"] == "d run r is not done after 2 hours"


def test_a_receiver_that_is_down_hides_nothing_and_reveals_no_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ATSPEED_ALERT_URL", "http://127.0.0.1:9/token-in-the-address")
    send("task_failed", "d.t failed")
    assert "could not be sent" in caplog.text
    assert "token-in-the-address" not in caplog.text
