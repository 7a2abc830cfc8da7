import torch

from atspeed_core.decoding.device_trie import NO_NODE
from tests.tiny_models import make_catalog, make_tree

CODES = [(a, b, c) for a in range(3) for b in range(2) for c in range(2)]
HISTORIES = [["0", "5", "7", "2"], ["3"]]


def plain_log_probs(tree, row, node):
    """The model's answer after prompt and path in one ordinary, unpadded forward pass."""
    path = [n for n in reversed(tree.trie.ancestors(torch.tensor([node]))[0].tolist()) if n > 0]
    prompt = tree._prompts[row][tree._mask[row]]
    tokens = torch.cat([prompt, tree.model.code_ids[tree.trie.codes(torch.tensor(path, dtype=torch.long))]])
    logits = tree.model.model(tokens[None]).logits[0, -1]
    return torch.log_softmax(logits, -1)[tree.model.code_ids]


@torch.no_grad()
def test_every_node_is_scored_as_if_it_stood_alone_after_the_prompt():
    tree = make_tree(make_catalog(CODES), HISTORIES)
    inner = torch.arange(tree.trie.first_leaf)
    tree.score(inner[1:].expand(2, -1))
    for row in range(2):
        for node in inner.tolist():
            slots, scored = tree.find(torch.tensor([[node]]).expand(2, -1))
            assert scored.all()
            torch.testing.assert_close(tree.log_probs[row, slots[row, 0]], plain_log_probs(tree, row, node))


@torch.no_grad()
def test_rounds_add_up_to_the_same_scores_and_nothing_is_scored_twice():
    catalog = make_catalog(CODES)
    whole, rounds = make_tree(catalog, HISTORIES), make_tree(catalog, HISTORIES)
    whole.score(torch.tensor([[1, 2, 4, 5], [3, 8, NO_NODE, NO_NODE]]))
    rounds.score(torch.tensor([[2, NO_NODE], [3, NO_NODE]]))
    rounds.score(torch.tensor([[1, 5, 2, 5], [8, 3, NO_NODE, 8]]))
    rounds.score(torch.tensor([[4, 5], [NO_NODE, 3]]))
    assert rounds.num_calls == 3
    for row, nodes in enumerate([[0, 1, 2, 4, 5], [0, 3, 8]]):
        assert sorted(n for n in rounds.nodes[row].tolist() if n >= 0) == nodes
        for node in nodes:
            wanted = torch.tensor([[node], [node]])
            a, b = whole.find(wanted)[0][row, 0], rounds.find(wanted)[0][row, 0]
            torch.testing.assert_close(whole.log_probs[row, a], rounds.log_probs[row, b])
    rounds.score(torch.tensor([[1, 2], [3, 8]]))
    assert rounds.num_calls == 3


@torch.no_grad()
def test_path_scores_sum_the_steps():
    tree = make_tree(make_catalog(CODES), HISTORIES)
    tree.score(torch.tensor([[1, 4], [2, 6]]))
    leaf_or_inner = torch.tensor([[4, 10], [6, NO_NODE]])  # node 10: first child of node 4
    steps = [[tree.log_probs[r, tree.find(leaf_or_inner)[0][r, 0] * 0] for r in range(2)]]
    first = [int(tree.trie.codes(torch.tensor(n))) for n in (1, 2)]
    second = [int(tree.trie.codes(torch.tensor(n))) for n in (4, 6)]
    for row, parent in enumerate((1, 2)):
        slot = tree.find(torch.tensor([[parent], [parent]]))[0][row, 0]
        expected = steps[0][row][first[row]] + tree.log_probs[row, slot, second[row]]
        torch.testing.assert_close(tree.path_scores(leaf_or_inner)[row, 0], expected)
    assert tree.path_scores(leaf_or_inner)[1, 1] == 0


@torch.no_grad()
def test_selected_requests_go_on_unchanged():
    catalog = make_catalog(CODES)
    both, one = make_tree(catalog, HISTORIES), make_tree(catalog, HISTORIES)
    for tree in (both, one):
        tree.score(torch.tensor([[1], [2]]))
    one.select(torch.tensor([1]))
    both.score(torch.tensor([[4], [6]]))
    one.score(torch.tensor([[6]]))
    torch.testing.assert_close(one.log_probs[0], both.log_probs[1])
