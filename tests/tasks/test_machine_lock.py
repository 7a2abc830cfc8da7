"""What reads the clock has the machine to itself."""

import threading
from pathlib import Path

from tasks.machine_lock import being_timed, machine_alone, machine_shared


def test_computing_goes_together_and_timing_alone(tmp_path: Path) -> None:
    lock, events = tmp_path / "lock", []
    computing = threading.Event()

    def time_something() -> None:
        computing.wait()
        with machine_alone(lock):
            events.append("timed")

    other = threading.Thread(target=time_something)
    other.start()
    with machine_shared(lock), machine_shared(lock):
        assert not being_timed(lock)
        computing.set()
        other.join(0.3)
        events.append("computed")
    other.join()
    assert events == ["computed", "timed"]


def test_nothing_starts_while_something_is_timed(tmp_path: Path) -> None:
    with machine_alone(tmp_path / "lock"):
        assert being_timed(tmp_path / "lock")
    assert not being_timed(tmp_path / "lock")
