"""The methods that the forms of the DAGs offer, for DAG files import nothing of the project: written from the registry.

python -m scripts.dag_methods     # after a method was added, removed or renamed
"""

from pathlib import Path

from atspeed_core.files import write_json
from atspeed_core.methods import METHODS, wired_methods

FILE = Path(__file__).resolve().parents[1] / "dags" / "atspeed_dags" / "methods.json"


def content() -> dict[str, list[str]]:
    """All methods, and those that a form starts with, in their order."""
    return {"methods": list(METHODS.all()), "wired": wired_methods()}


if __name__ == "__main__":
    write_json(FILE, content())
