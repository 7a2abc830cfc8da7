"""A recommender with fixed lists, for all that measures one."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from atspeed_core.data.sequences import Example
from atspeed_core.decoding.plan import Choice, Plan
from atspeed_core.identifiers.catalog import Catalog


@dataclass(frozen=True)
class Answer:
    items: list[list[str]]
    scores: list[list[float]]
    accepted_steps: list[int]
    target_calls: list[int]
    target_nodes: list[int]


@dataclass
class FakeRecommender:
    """Answers every history with its own items, backwards; `swapped` users get two items exchanged when relaxed."""

    swapped: set[str] = field(default_factory=set)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    target_parameters: int = 2_000_000
    draft_parameters: int = 100_000
    plan: Plan = field(default_factory=lambda: Plan([], {}))
    calls: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    offered: tuple[str, ...] = ("strict", "relaxed", "exact_sampling")
    drafts_in_rounds: bool = True
    choice: Choice = field(default_factory=lambda: Choice(speculation="draft"))
    catalog: Catalog | None = None

    def recommend(self, histories: list[list[str]], k: int = 10, verification: str = "strict", seed: int = 0) -> Answer:
        self.calls.append(verification)
        self.seeds.append(seed)
        answer = self._answer(histories, k, steps=0 if verification == "none" else 2)
        for history, items in zip(histories, answer.items, strict=True):
            if verification == "relaxed" and history[0] in self.swapped and k > 1:
                items[0], items[1] = items[1], items[0]
        return answer

    def offers(self, verification: str) -> bool:
        return verification in self.offered

    def prepare(self, histories: list[list[str]], k: int) -> list[list[str]]:
        return histories

    def planned_choice(self, request: object) -> Choice:
        return self.choice

    def without_speculation(self) -> "FakeRecommender":
        return self

    def search_as_published(self, histories: list[list[str]], k: int) -> Answer:
        self.calls.append("published")
        return self._answer(histories, k, steps=1)

    def sample_as_published(self, histories: list[list[str]], k: int, *, seed: int = 0) -> Answer:
        self.calls.append("sampled")
        return self._answer(histories, k, steps=0)

    def generate(self, histories: list[list[str]], k: int, *, prompt_once: bool = False) -> Answer:
        self.calls.append("generate")
        return self._answer(histories, k, steps=0)

    def prepare_oracle(self, histories: list[list[str]], k: int) -> Callable[[], Answer]:
        self.calls.append("prepare_oracle")
        return lambda: (self.calls.append("oracle"), self._answer(histories, k, steps=3))[1]

    def _answer(self, histories: list[list[str]], k: int, *, steps: int) -> Answer:
        users = len(histories)
        scores = [[-0.5 * place for place in range(k)] for _ in histories]
        return Answer(
            [history[::-1][:k] for history in histories], scores, [steps] * users, [4 - steps] * users, [3] * users
        )


@pytest.fixture
def recommender() -> FakeRecommender:
    """Relaxed lists of user "u1" (whose first item is "a1") differ from the reference."""
    return FakeRecommender(swapped={"a1"})


@pytest.fixture
def examples() -> list[Example]:
    """Four users with three items each; the last item of the history is the target of u0 and u1 only."""
    histories = [[f"{letter}{user}" for letter in "abc"] for user in range(4)]
    targets = [["c0"], ["c1", "zz"], ["zz"], ["zz"]]
    return [
        Example(f"u{n}", history, wanted) for n, (history, wanted) in enumerate(zip(histories, targets, strict=True))
    ]
