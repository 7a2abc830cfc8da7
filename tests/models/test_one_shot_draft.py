"""The one-shot draft: its probabilities are ones, its folder is safe, its weights follow a growing catalog."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.errors import UserError
from atspeed_core.files import read_json, write_json
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.models.draft_folder import drafter_of
from atspeed_core.models.one_shot_draft import (
    OneShotDraft,
    build_from,
    load_one_shot,
    padded_items,
    save_one_shot,
    shape_difference,
    unit_names,
)
from tests.complete_params import OneShot
from tests.tiny_models import make_catalog

SHAPE = OneShot(hidden_size=8, num_layers=2, num_heads=2)
CATALOGS = {
    "one level": [(0,), (3,), (4,)],
    "two levels": [(0, 0), (0, 1), (2, 0), (2, 3)],
    "four levels": [(a, b, c, a + c) for a in range(3) for b in range(2) for c in range(b + 1)],
    "a chain": [(1, 2, 3, 4)],
    "shared identifiers": [(0, 1, 2), (0, 1, 2), (0, 1, 3), (5, 1, 2)],
}
HISTORIES = [[0], [1, 0, 1, 1, 0], [0, 0]]


def make_draft(catalog: Catalog, *, seed: int = 3) -> OneShotDraft:
    draft = OneShotDraft(SHAPE, catalog, max_history=4, seed=seed)
    with torch.no_grad():
        for weight in draft.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
    return draft


def items_of(catalog: Catalog) -> torch.Tensor:
    return padded_items([[i % len(catalog.items) for i in row] for row in HISTORIES], max_history=4)


@pytest.mark.parametrize("codes", CATALOGS.values(), ids=CATALOGS)
@torch.inference_mode()
def test_a_prefix_has_the_probability_of_its_extensions(codes: list[tuple[int, ...]]) -> None:
    catalog = make_catalog(codes)
    levels = make_draft(catalog).prefix_log_probs(items_of(catalog))
    start, parents = catalog.trie.depth_start, torch.from_numpy(catalog.trie.parent).long()
    assert [level.shape[1] for level in levels] == [start[d + 1] - start[d] for d in range(1, len(start) - 1)]
    torch.testing.assert_close(levels[0].exp().sum(1), torch.ones(3))
    for depth, (above, below) in enumerate(pairwise(levels), 1):
        summed = torch.zeros_like(above)
        summed.index_add_(1, parents[start[depth + 1] : start[depth + 2]] - int(start[depth]), below.exp())
        torch.testing.assert_close(summed, above.exp())


@pytest.mark.parametrize("codes", CATALOGS.values(), ids=CATALOGS)
@torch.inference_mode()
def test_what_is_asked_for_level_by_level_is_what_all_levels_say(codes: list[tuple[int, ...]]) -> None:
    catalog = make_catalog(codes)
    trie, draft, items = DeviceTrie.build(catalog.trie), make_draft(catalog), items_of(catalog)
    levels, scores = draft.prefix_log_probs(items), draft(items)
    known = torch.cat([torch.zeros(3, 1), *levels], dim=1)
    start = catalog.trie.depth_start
    for depth in range(catalog.num_levels):
        whole = torch.arange(int(start[depth]), int(start[depth + 1])).flip(0).expand(3, -1)
        for nodes in (whole, whole[:, :1]):  # a single node's children are scored without their whole level
            children = trie.children(nodes, depth)
            step = draft.next_log_probs(scores, children, depth)
            assert torch.equal(step == -torch.inf, children < 0)
            expected = (
                known.gather(1, children.clamp(min=0).flatten(1)).view_as(step) - known.gather(1, nodes)[..., None]
            )
            torch.testing.assert_close(step[children >= 0], expected[children >= 0], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_padding_does_not_show() -> None:
    catalog = make_catalog(CATALOGS["four levels"])
    draft, items = make_draft(catalog), items_of(catalog)
    together = draft(items)
    alone = [draft(padded_items([row], max_history=4)) for row in HISTORIES]
    for ours, each in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.cat(each))
        assert not torch.allclose(ours[0], ours[1])


def test_only_the_most_recent_items_are_read() -> None:
    rows = padded_items([[9, 8, 7, 6, 5], [3]], max_history=4)
    assert rows.tolist() == [[8, 7, 6, 5], [-1, -1, -1, 3]]


def test_a_saved_draft_says_the_same(tmp_path: Path) -> None:
    catalog = make_catalog(CATALOGS["two levels"])
    draft = make_draft(catalog)
    save_one_shot(tmp_path / "draft", draft, catalog, extra_files={"curves.csv": "step,name,value\n"})
    loaded = load_one_shot(tmp_path / "draft", catalog)
    assert all(map(torch.equal, loaded(items_of(catalog)), draft(items_of(catalog))))
    assert (tmp_path / "draft" / "curves.csv").exists()
    assert drafter_of(tmp_path / "draft") == "one_shot"
    assert drafter_of(tmp_path) is None


def test_other_identifiers_and_damage_are_told(tmp_path: Path) -> None:
    catalog = make_catalog(CATALOGS["two levels"])
    save_one_shot(tmp_path / "draft", make_draft(catalog), catalog)
    with pytest.raises(UserError, match="other identifiers"):
        load_one_shot(tmp_path / "draft", make_catalog([(0, 0), (0, 1), (2, 0), (2, 4)]))
    config, weights = tmp_path / "draft" / "config.json", tmp_path / "draft" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        load_one_shot(tmp_path / "draft", catalog)
    write_json(config, {name: value for name, value in read_json(config).items() if name != "format"})
    with pytest.raises(UserError, match="another version"):
        load_one_shot(tmp_path / "draft", catalog)
    assert shape_difference(tmp_path / "draft", SHAPE, max_history=4) == "format None, now 2"
    with pytest.raises(UserError, match="no one-shot draft"):
        load_one_shot(tmp_path / "nothing", catalog)


def test_a_draft_grows_with_its_catalogue(tmp_path: Path) -> None:
    before = make_catalog([(0, 0, 1), (0, 1, 0), (2, 0, 0)])
    now = make_catalog([(0, 0, 1), (0, 1, 0), (0, 2, 5), (1, 0, 0), (2, 0, 0)])
    earlier = make_draft(before)
    save_one_shot(tmp_path / "draft", earlier, before)
    inherited = build_from(tmp_path / "draft", before, SHAPE, now, max_history=4, seed=1)
    old, new = unit_names(before), unit_names(now)
    rows, grown = earlier.head.weight, inherited.head.weight
    for name in old:
        assert torch.equal(grown[new.index(name)], rows[old.index(name)])
    siblings = rows[[old.index("<a_0><b_0>"), old.index("<a_0><b_1>")]]
    torch.testing.assert_close(grown[new.index("<a_0><b_2>")], siblings.mean(0))
    level = rows[[old.index("<a_0>"), old.index("<a_2>")]]
    torch.testing.assert_close(grown[new.index("<a_1>")], level.mean(0))
    assert torch.equal(inherited.blocks[0].inner.weight, earlier.blocks[0].inner.weight)


def test_another_shape_is_told(tmp_path: Path) -> None:
    catalog = make_catalog(CATALOGS["two levels"])
    save_one_shot(tmp_path / "draft", make_draft(catalog), catalog)
    wider = OneShot(hidden_size=16, num_layers=2, num_heads=2)
    assert shape_difference(tmp_path / "draft", SHAPE, max_history=4) == ""
    assert shape_difference(tmp_path / "draft", wider, max_history=4) == "hidden_size 8, now 16"
    with pytest.raises(UserError, match="hidden_size 8, now 16"):
        build_from(tmp_path / "draft", catalog, wider, catalog, max_history=4, seed=1)
