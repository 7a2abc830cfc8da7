"""A trained target's decisions at another model's pace: its answers are recorded and then replayed by a stand-in.

A search is a function of its log-probabilities. If its calls run another model's forward pass and head, but continue
with the trained target's answers, the search makes the trained target's calls and takes the other model's time.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from atspeed_core.decoding.code_model import CodeModel, Session


@dataclass
class Tape:
    """The calls of one search, in order.

    Attributes:
        tokens: [B, T] int64 of each call, in the trained target's vocabulary.
        answers: [B, T', codes] float32 log-probabilities, the result of each call.
        place: number of the call that is replayed next.
        thorough: whether the tokens of a replayed call are compared one by one, which waits for the device; otherwise
            only their shape is.
    """

    tokens: list[Tensor] = field(default_factory=list)
    answers: list[Tensor] = field(default_factory=list)
    place: int = 0
    thorough: bool = True

    def rewind(self) -> None:
        """Start over."""
        self.place = 0

    def check(self, tokens: Tensor) -> None:
        """Assert that the next call is the recorded one."""
        recorded = self.tokens[self.place]
        assert recorded.shape == tokens.shape
        assert not self.thorough or torch.equal(recorded, tokens)

    def next_answer(self) -> Tensor:
        """The trained target's answer to this call."""
        self.place += 1
        return self.answers[self.place - 1]

    def finish(self) -> None:
        """Assert that the whole tape was replayed; later replays are compared by shape only."""
        assert self.place == len(self.answers)
        self.thorough = False


@dataclass(frozen=True)
class RecordingModel(CodeModel):
    """A model whose calls are recorded on a tape; see `CodeModel`."""

    tape: Tape = field(kw_only=True)

    @classmethod
    def of(cls, model: CodeModel, tape: Tape) -> "RecordingModel":
        """`model`, recorded."""
        return cls(model.model, model.code_ids, model.decoder, tape=tape)

    def session(self, batch: int, capacity: int) -> Session:
        """See `CodeModel`."""
        return _RecordingSession(super().session(batch, capacity), self.tape)

    def code_log_probs(self, hidden: Tensor) -> Tensor:
        """See `CodeModel`."""
        answer = super().code_log_probs(hidden)
        self.tape.answers.append(answer)
        return answer


@dataclass(frozen=True)
class StandIn(CodeModel):
    """Another model in place of the trained target: its callers use the target's vocabulary, the model uses its own.

    Attributes:
        inner: the model that runs.
        token_of: [trained vocabulary] int64 its token for each token of the trained target.
        tape: its answers; without a tape it answers with its own log-probabilities.
    """

    inner: CodeModel = field(kw_only=True)
    token_of: Tensor = field(kw_only=True)
    tape: Tape | None = field(kw_only=True, default=None)

    @classmethod
    def of(cls, inner: CodeModel, trained: CodeModel, token_of: Tensor) -> "StandIn":
        """`inner` in the place of `trained`."""
        return cls(inner.model, trained.code_ids, inner.decoder, inner=inner, token_of=token_of)

    def session(self, batch: int, capacity: int) -> Session:
        """See `CodeModel`."""
        return _StandInSession(self.inner.session(batch, capacity), self.token_of, self.tape)

    def code_log_probs(self, hidden: Tensor) -> Tensor:
        """The log-probabilities on the tape; the model's own are computed all the same."""
        own = self.inner.code_log_probs(hidden)
        if self.tape is None:
            return own
        answer = self.tape.next_answer()
        assert answer.shape == own.shape
        return answer


class _RecordingSession:
    def __init__(self, inner: Session, tape: Tape) -> None:
        self._inner, self._tape = inner, tape

    @property
    def prefix_length(self) -> int:
        return self._inner.prefix_length

    def extend(self, tokens: Tensor, positions: Tensor, visible: Tensor, *, keep_from: int) -> Tensor:
        self._tape.tokens.append(tokens)
        return self._inner.extend(tokens, positions, visible, keep_from=keep_from)

    def select(self, rows: Tensor) -> None:
        self._inner.select(rows)


class _StandInSession:
    def __init__(self, inner: Session, token_of: Tensor, tape: Tape | None) -> None:
        self._inner, self._token_of, self._tape = inner, token_of, tape

    @property
    def prefix_length(self) -> int:
        return self._inner.prefix_length

    def extend(self, tokens: Tensor, positions: Tensor, visible: Tensor, *, keep_from: int) -> Tensor:
        if self._tape is not None:
            self._tape.check(tokens)
        return self._inner.extend(self._token_of[tokens], positions, visible, keep_from=keep_from)

    def select(self, rows: Tensor) -> None:
        self._inner.select(rows)
