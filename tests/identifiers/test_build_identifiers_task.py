"""The command of the stage build_identifiers, in a folder of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import Result
from safetensors.numpy import load_file

from atspeed_core.files import read_json, write_json
from atspeed_core.identifiers.catalog import Catalog
from tests.complete_params import completed
from tests.in_process import STAGE_ENVIRONMENT, call

PROJECT = Path(__file__).resolve().parents[2]
OUTPUTS = ("identifiers.json", "codebooks.safetensors", "report.json")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with items and training sequences only: the stage must not need what is held out."""
    processed = tmp_path / "data/processed"
    processed.mkdir(parents=True)
    ids = [str(n) for n in range(40)]
    titles = [f"Film {item}" for item in ids]
    texts = [f"{title} {'horror' if n % 2 else 'comedy'}" for n, title in enumerate(titles)]
    pd.DataFrame({"item_id": ids, "title": titles, "text": texts}).to_parquet(processed / "items.parquet")
    rng = np.random.default_rng(0)
    sequences = [[str(2 * n + user % 2) for n in rng.permutation(20)[:6]] for user in range(50)]
    users = [f"u{user}" for user in range(50)]
    train = pd.DataFrame({"user_id": users, "item_ids": sequences, "timestamps": None})
    train.to_parquet(processed / "train.parquet")
    return tmp_path


def run_stage(workspace: Path, evaluate: dict[str, Any] | None = None, **settings: Any) -> Result:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    params["build_identifiers"] = settings
    params["evaluate"].update(evaluate or {})
    (workspace / "params.yaml").write_text(yaml.safe_dump(completed(params)), encoding="utf-8")
    return call("tasks.build_identifiers", folder=workspace, **STAGE_ENVIRONMENT)


def test_the_stage_writes_identifiers_codebooks_and_report(workspace: Path) -> None:
    done = run_stage(workspace, codebook_width=4, num_levels=3)
    assert done.exit_code == 0, done.stderr
    folder = workspace / "data/identifiers"
    assert sorted(path.name for path in folder.iterdir()) == sorted(OUTPUTS)
    catalog = Catalog.load(folder / "identifiers.json")
    assert len(catalog.items) == 40
    assert catalog.num_collisions() == 0
    codebooks = load_file(folder / "codebooks.safetensors")
    assert sorted(codebooks) == ["codebook_1", "codebook_2", "codebook_3"]
    assert {len(codebook) for codebook in codebooks.values()} == {4}
    assert read_json(folder / "report.json")["prefixes_by_depth"] == catalog.trie.prefixes_by_depth()


def test_a_mistake_is_one_line_with_code_2_and_leaves_the_outputs_alone(workspace: Path) -> None:
    write_json(workspace / "given.json", {str(n): [f"<a_{n}>"] for n in range(40)})
    done = run_stage(workspace, method="file", file="given.json")
    assert done.exit_code == 0, done.stderr
    folder = workspace / "data/identifiers"
    assert read_json(folder / "identifiers.json") == read_json(workspace / "given.json")
    assert load_file(folder / "codebooks.safetensors") == {}
    before = {name: (folder / name).read_bytes() for name in OUTPUTS}

    write_json(workspace / "given.json", {str(n): [f"<a_{n}>"] for n in range(39)})
    done = run_stage(workspace, method="file", file="given.json")
    assert done.exit_code == 2
    assert "given.json: 1 of the data set's 40 items have no identifier (39)" in done.stderr
    assert done.stderr.count("ERROR") == 1
    assert "Traceback" not in done.stderr
    assert {name: (folder / name).read_bytes() for name in OUTPUTS} == before


def test_lists_longer_than_the_catalogue_are_refused_and_earlier_outputs_stay(workspace: Path) -> None:
    assert run_stage(workspace, codebook_width=4, num_levels=3).exit_code == 0
    before = {name: (workspace / "data/identifiers" / name).read_bytes() for name in OUTPUTS}
    done = run_stage(workspace, evaluate={"ks": [10, 41], "draft_beams": 41}, codebook_width=3, num_levels=4)
    assert done.exit_code == 2
    assert "evaluate.ks: K = 41 is larger than the catalog of 40 identifiers" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2  # one line, and one that says how many items were embedded
    assert {name: (workspace / "data/identifiers" / name).read_bytes() for name in OUTPUTS} == before
