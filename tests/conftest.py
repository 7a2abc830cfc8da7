"""What all tests share: none of them reaches a server of the user's, a model hub or global state of DVC."""

import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"  # nothing answers there: stages keep their records
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DVC_NO_ANALYTICS"] = "1"

settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")

# At least 20 s of processor each. They start first, or one worker would still run one when the others are done.
LONG_FILES = (
    "promotion/test_promotion.py",
    "training/test_finetune.py",
    "nightly/test_run_stage.py",
    "tasks/test_all_stages.py",
    "nightly/test_workspace.py",
    "sweep/test_sweep.py",
    "nightly/test_ingest.py",
    "test_extending.py",
    "recommendations/test_recommendations.py",
    "serving/test_serving.py",
    "tasks/test_tracking.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; the order within a file stays."""
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run once; all workers of a test run share it, so nobody may change it."""
    from atspeed_core.files import replacing
    from tests.tiny_project import run_every_stage

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "tiny_pipeline"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with replacing(folder) as unfinished:
                unfinished.mkdir()
                run_every_stage(unfinished)
    return folder
