import numpy as np
import torch
from scipy.stats import chisquare

from atspeed_core.decoding.acceptance import Relaxed, Strict, extensions
from atspeed_core.decoding.beams import Beams
from atspeed_core.decoding.published import UniformDrafter
from tests.tiny_models import make_catalog, make_tree

CATALOG = make_catalog([(a, b) for a in range(4) for b in range(3)])


class NoDraft:
    """Drew nothing and has no opinion."""

    def drawn(self, nodes: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(nodes, dtype=torch.bool)

    def scores(self, beams: Beams) -> torch.Tensor:
        return beams.scores[:, :0]


class FixedDraft:
    """Drew `nodes` with fixed scores, the same for every request."""

    def __init__(self, nodes: list[int], scores: torch.Tensor) -> None:
        self.nodes, self.fixed = torch.tensor(nodes), scores

    def drawn(self, nodes: torch.Tensor) -> torch.Tensor:
        return torch.isin(nodes, self.nodes)

    def scores(self, beams: Beams) -> torch.Tensor:
        return self.fixed.expand(len(beams.nodes), -1)


def first_level(batch: int):
    tree = make_tree(CATALOG, [["1", "2"]] * batch)
    with torch.no_grad():
        tree.score(torch.full((batch, 1), -1))
    return tree, Beams.at_root(batch, 2, torch.device("cpu"))


def target_probabilities(batch: int = 1) -> np.ndarray:
    tree, beams = first_level(batch)
    scores = extensions(beams, tree)[1][0, : tree.trie.max_children]
    return torch.softmax(scores.double(), -1).numpy()


def test_strict_takes_the_best_extensions_in_order():
    tree, beams = first_level(1)
    nodes = Strict().extend(beams, tree, NoDraft()).nodes[0].tolist()
    assert nodes == (1 + np.argsort(-target_probabilities())[:2]).tolist()


def test_relaxed_without_a_draft_draws_from_the_target():
    batch = 6000
    tree, beams = first_level(batch)
    extended = Relaxed(torch.Generator().manual_seed(0)).extend(beams, tree, NoDraft())
    p = target_probabilities()
    pairs = {(i, j): p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i in range(4) for j in range(i)}
    drawn = [tuple(sorted((a - 1, b - 1), reverse=True)) for a, b in extended.nodes.tolist()]
    observed = np.array([drawn.count(pair) for pair in pairs])
    assert chisquare(observed, batch * np.array(list(pairs.values()))).pvalue > 1e-4
    assert (extended.scores[:, 0] >= extended.scores[:, 1]).all()


def test_relaxed_keeps_drafted_nodes_that_the_target_holds_more_probable_than_the_draft():
    p = target_probabilities()
    drafted = [int(n) for n in 1 + np.argsort(-p)[2:]]  # the two the target likes least
    scores = torch.full((len(p),), 0.0)
    scores[[n - 1 for n in drafted]] = -30.0  # the draft holds them all but impossible: p > q, always accepted
    tree, beams = first_level(50)
    padding = torch.full((len(beams.nodes[0]) * tree.trie.max_children - len(p),), -torch.inf)
    draft = FixedDraft(drafted, torch.cat([scores, padding]))
    extended = Relaxed(torch.Generator().manual_seed(0)).extend(beams, tree, draft)
    assert {frozenset(row) for row in extended.nodes.tolist()} == {frozenset(drafted)}


def test_relaxed_rejects_what_the_target_holds_impossible_and_draws_from_the_residual():
    p = target_probabilities()
    worst = int(1 + np.argmin(p))
    scores = torch.full((len(p),), -30.0)
    scores[worst - 1] = 0.0  # the draft is sure of what the target likes least
    batch = 4000
    tree, beams = first_level(batch)
    padding = torch.full((len(beams.nodes[0]) * tree.trie.max_children - len(p),), -torch.inf)
    extended = Relaxed(torch.Generator().manual_seed(0)).extend(
        beams, tree, FixedDraft([worst], torch.cat([scores, padding]))
    )
    kept = float((extended.nodes == worst).any(1).float().mean())
    assert abs(kept - p[worst - 1]) < 4 * np.sqrt(p[worst - 1] / batch) + 1e-3


def test_what_was_drafted_is_known_until_the_next_round():
    tree = make_tree(CATALOG, [["1", "2"], ["3"]])
    drafter = UniformDrafter(tree, num_beams=3, num_steps=1)
    nodes = torch.arange(-1, CATALOG.trie.num_nodes).expand(2, -1)
    assert not drafter.drawn(nodes).any()
    with torch.no_grad():
        drafted = drafter.propose(Beams.at_root(2, 2, torch.device("cpu")))
    assert torch.equal(drafter.drawn(nodes), (nodes.unsqueeze(-1) == drafted.unsqueeze(1)).any(-1) & (nodes >= 0))
    assert drafter.drawn(nodes).sum(1).tolist() == [3, 3]
    drafter.select(torch.tensor([1]))
    assert drafter.drawn(drafted[1:])[0].all()
