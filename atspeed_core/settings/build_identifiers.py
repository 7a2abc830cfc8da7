"""Section `build_identifiers`: how items become tuples of code tokens."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from atspeed_core.settings.section import Positive, Section


class RqVae(Section):
    """Training of the residual-quantised autoencoder."""

    latent_dim: Positive = 32
    hidden_dims: list[Positive] = [256, 128]
    epochs: Positive = 200
    batch_size: Positive = 1024
    learning_rate: float = 1e-3
    commitment: float = 0.25


class BuildIdentifiers(Section):
    """How items become tuples of code tokens."""

    method: Literal["rq_kmeans", "rq_vae", "file"]
    file: str | None = None
    num_levels: Annotated[int, Field(gt=0, le=26)]  # one letter per level
    codebook_width: Positive
    embedding_dim: Positive
    sentence_encoder: str | None = None
    text_weight: Annotated[float, Field(ge=0)]
    cooccurrence_weight: Annotated[float, Field(ge=0)]
    cooccurrence_window: Positive
    collisions: Literal["resolve", "allow"]
    rebuild_above: Annotated[float, Field(ge=1)]  # error of kept identifiers over that of fresh ones
    rq_vae: RqVae = RqVae()
    seed: int

    @property
    def num_codes(self) -> int:
        """Codes of all levels."""
        return self.num_levels * self.codebook_width

    @model_validator(mode="after")
    def _a_file_goes_with_its_method(self) -> "BuildIdentifiers":
        if (self.method == "file") != (self.file is not None):
            raise ValueError("'file' must be set for method 'file', and only for it")
        if self.method != "file" and self.text_weight + self.cooccurrence_weight == 0:
            raise ValueError("'text_weight' and 'cooccurrence_weight' cannot both be 0")
        return self
