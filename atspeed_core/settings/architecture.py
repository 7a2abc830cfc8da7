"""The shape of a model that is built from scratch: part of two sections."""

from pydantic import model_validator

from atspeed_core.settings.section import Positive, Section, Share


class Architecture(Section):
    """Shape of a llama-architecture model built from scratch."""

    hidden_size: Positive
    num_layers: Positive
    num_heads: Positive
    intermediate_size: Positive
    tie_embeddings: bool = True
    dropout: Share

    @model_validator(mode="after")
    def _heads_divide_the_hidden_size(self) -> "Architecture":
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError("'hidden_size' must be a multiple of 2 * 'num_heads'")
        return self
