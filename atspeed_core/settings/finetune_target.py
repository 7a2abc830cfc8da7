"""Section `finetune_target`: training of the target model."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from atspeed_core.settings.architecture import Architecture
from atspeed_core.settings.section import Positive, Section, Share


class Lora(Section):
    """Low-rank adaptation of a base model."""

    rank: Positive = 8
    alpha: Positive = 16
    dropout: Share = 0.05
    target_modules: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class DeepSpeed(Section):
    """How DeepSpeed is launched (through torchrun).

    Attributes:
        num_processes: per node, at most one per GPU where there is any; "auto": one per GPU. The number of nodes is
            the job's (tasks/launch.py).
        micro_batch_size: windows that a process computes at a time, gradients of a batch being summed up: less memory
            for the same updates. null: its whole share of the batch.
    """

    num_processes: Positive | Literal["auto"]
    zero_stage: Literal[0, 1, 2, 3]
    precision: Literal["float32", "bfloat16"]
    micro_batch_size: Positive | None = None


class WarmFinetune(Section):
    """What differs in the training of a target that starts from the champion's weights."""

    max_epochs: Positive
    learning_rate: Annotated[float, Field(gt=0)]


class FinetuneTarget(Section):
    """Training of the target model.

    Attributes:
        base_model: what is fine-tuned: a folder, a hub name or `package:NAME`, weights that a Python package ships.
        validation_users: users that every epoch is validated on, sampled once; null: all. With 2000, the loss of the
            chosen epoch is at most 0.001 above that of the best one in 19 of 20 samples (MovieLens, bootstrap).
    """

    base_model: str | None = None
    instruction: str = ""
    architecture: Architecture | None = None
    codebook_start: bool
    lora: Lora | None = None
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup: Share = 0.05
    batch_size: Positive
    max_epochs: Positive
    patience: Positive
    selection: Literal["recall", "loss"]
    validation_users: Positive | None
    warm: WarmFinetune
    deepspeed: DeepSpeed
    seed: int

    @model_validator(mode="after")
    def _either_scratch_or_base(self) -> "FinetuneTarget":
        if (self.base_model is None) == (self.architecture is None):
            raise ValueError("set exactly one of 'base_model' (fine-tune) and 'architecture' (train from scratch)")
        if self.lora is not None and self.base_model is None:
            raise ValueError("'lora' needs a 'base_model'")
        if self.instruction and self.base_model is None:
            raise ValueError("'instruction' needs a 'base_model': a model from scratch knows only the code tokens")
        if self.codebook_start and self.architecture is None:
            raise ValueError("'codebook_start' is for models from scratch: set it to false, or give an 'architecture'")
        if self.deepspeed.num_processes != "auto" and self.batch_size % self.deepspeed.num_processes:
            raise ValueError("'batch_size' must be a multiple of 'deepspeed.num_processes'")
        return self

    def warmed(self) -> "FinetuneTarget":
        """These settings for a training that starts from the champion's weights."""
        return self.model_copy(update=dict(self.warm))
