"""`params.yaml` as one typed model: the only place where a setting is declared, checked and explained."""

import difflib
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atspeed_core.errors import UserError

Method = Literal["sft", "wordkd", "tvdkd", "seqkd", "dare", "atspeed_s", "atspeed_r", "prefix_containment", "one_shot"]
DEFAULT_METHODS: tuple[Method, ...] = ("sft", "atspeed_s", "atspeed_r", "one_shot")  # those of dvc.yaml
Verification = Literal["none", "strict", "relaxed", "exact_sampling"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A section of `params.yaml`: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class WarmStart(Section):
    """What training starts from.

    Attributes:
        commit: of the champion, in this repository: its identifiers are kept, its models trained on; None: from
            scratch.
    """

    commit: Annotated[str, Field(min_length=1)] | None = None


class Columns(Section):
    """Column names of a plain CSV or parquet file (source `table`) or fields of RecBole files (`recbole`)."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = "rating"
    timestamp: str | None = "timestamp"
    title: str | None = "title"
    text: list[str] = []


class PrepareData(Section):
    """Which interactions are read, which are kept and how they are split.

    Attributes:
        sample: users that are kept for a quick look, drawn with `seed` before the k-core; null: all.
    """

    dataset: str
    source: Literal["movielens", "recbole", "table", "daily", "atspeed_release", "amazon", "goodreads", "steam", "yelp"]
    path: str
    items_path: str | None = None
    columns: Columns = Columns()
    rating_threshold: float | None = None
    k_core: Annotated[int, Field(ge=1)] = 5
    duplicates: Literal["first", "last", "all", "error"] = "first"
    split: Literal["chronological", "leave_one_out", "published"] = "leave_one_out"
    max_history: Positive = 20
    sample: Positive | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _published_split_belongs_to_the_release(self) -> "PrepareData":
        if (self.split == "published") != (self.source == "atspeed_release"):
            raise ValueError("split 'published' goes with source 'atspeed_release', and only with it")
        return self


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

    method: Literal["rq_kmeans", "rq_vae", "file"] = "rq_kmeans"
    file: str | None = None
    num_levels: Annotated[int, Field(gt=0, le=26)] = 4  # one letter a level
    codebook_width: Positive = 256
    embedding_dim: Positive = 64
    sentence_encoder: str | None = None
    text_weight: Annotated[float, Field(ge=0)] = 1.0
    cooccurrence_weight: Annotated[float, Field(ge=0)] = 1.0
    cooccurrence_window: Positive = 5
    collisions: Literal["resolve", "allow"] = "resolve"
    rebuild_above: Annotated[float, Field(ge=1)] = 1.15  # error of kept identifiers over that of fresh ones
    rq_vae: RqVae = RqVae()
    seed: int = 0

    @model_validator(mode="after")
    def _a_file_goes_with_its_method(self) -> "BuildIdentifiers":
        if (self.method == "file") != (self.file is not None):
            raise ValueError("'file' must be set for method 'file', and only for it")
        if self.method != "file" and self.text_weight + self.cooccurrence_weight == 0:
            raise ValueError("'text_weight' and 'cooccurrence_weight' cannot both be 0")
        return self


class Architecture(Section):
    """Shape of a llama-architecture model built from scratch."""

    hidden_size: Positive
    num_layers: Positive
    num_heads: Positive
    intermediate_size: Positive
    tie_embeddings: bool = True
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _heads_divide_the_hidden_size(self) -> "Architecture":
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError("'hidden_size' must be a multiple of 2 * 'num_heads'")
        return self


class Lora(Section):
    """Low-rank adaptation of a base model."""

    rank: Positive = 8
    alpha: Positive = 16
    dropout: Share = 0.05
    target_modules: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class DeepSpeed(Section):
    """How DeepSpeed is launched (through torchrun).

    Attributes:
        num_processes: a node; "auto": one a GPU. The number of nodes is the job's (tasks/launch.py).
        micro_batch_size: windows that a process computes at a time, gradients of a batch being summed up: less memory
            for the same updates. null: its whole share of the batch.
    """

    num_processes: Positive | Literal["auto"] = 1
    zero_stage: Literal[0, 1, 2, 3] = 2
    precision: Literal["float32", "bfloat16"] = "float32"
    micro_batch_size: Positive | None = None


class WarmFinetune(Section):
    """What differs in the training of a target that starts from the champion's weights."""

    max_epochs: Positive = 6
    learning_rate: Annotated[float, Field(gt=0)] = 2.5e-4


class FinetuneTarget(Section):
    """Training of the target model.

    Attributes:
        base_model: what is fine-tuned: a folder, a hub name or `package:NAME`, weights that a Python package ships.
    """

    base_model: str | None = None
    instruction: str = ""
    architecture: Architecture | None = None
    codebook_start: bool = False
    lora: Lora | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup: Share = 0.05
    batch_size: Positive = 32
    max_epochs: Positive = 20
    patience: Positive = 4
    selection: Literal["recall", "loss"] = "recall"
    warm: WarmFinetune = WarmFinetune()
    deepspeed: DeepSpeed = DeepSpeed()
    seed: int = 0

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


class CacheTopk(Section):
    """The target's top-K sequences for the training users.

    Attributes:
        contexts_per_user: cuts of a training history.
        rollouts_per_user: times that the target carries a whole training history on, with items drawn from its law.
        rollout_items: items it draws; the history after each of them is a context as well.
    """

    top_k: Positive = 20
    contexts_per_user: Positive = 1
    rollouts_per_user: Annotated[int, Field(ge=0)] = 0
    rollout_items: Positive = 2
    batch_size: Positive = 64
    contexts_per_shard: Positive = 1024
    compare_users: Annotated[int, Field(ge=0)] = 64
    seed: int = 0


class WarmAlign(Section):
    """What differs in the training of a draft that starts from the champion's weights."""

    num_updates: Positive = 200
    learning_rate: Annotated[float, Field(gt=0)] = 2.5e-4


class OneShot(Section):
    """The draft of method one_shot: its shape and its training.

    Attributes:
        dropout: of the outputs of attention and feed-forward layers, in training.
        num_updates: an update of this draft is cheap, so it makes more of them than the others in the same time.
        batch_size: contexts of an update.
    """

    hidden_size: Positive = 64
    num_layers: Positive = 1
    num_heads: Positive = 2
    dropout: Share = 0.0
    num_updates: Positive = 1500
    batch_size: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    warm: WarmAlign = WarmAlign(num_updates=500, learning_rate=1e-3)

    @model_validator(mode="after")
    def _heads_divide_the_hidden_size(self) -> "OneShot":
        if self.hidden_size % self.num_heads:
            raise ValueError("'hidden_size' must be a multiple of 'num_heads'")
        return self

    def warmed(self) -> "OneShot":
        """These settings for a training that starts from the champion's weights."""
        return self.model_copy(update=dict(self.warm))


class PrefixContainment(Section):
    """What method prefix_containment asks of its draft.

    Attributes:
        nodes: n_t, how many nodes of level 1, 2, ... are drafted; the last counts for deeper levels too.
        margin: log-probability by which a prefix of the target's should stand above what must stay outside.
    """

    nodes: Annotated[list[Positive], Field(min_length=1)] = [40]
    margin: Annotated[float, Field(ge=0)] = 1.0


class AlignDraft(Section):
    """Training of the draft; for the language models the same initial weights and number of updates.

    Attributes:
        architecture: of drafts from scratch; the alternative to `base_model`.
        base_model: folder, hub name or `package:NAME` of a model with the target's tokenizer, which drafts start from.
        alpha: weight of the alignment loss; the recommendation loss has 1 - alpha.
        beta: weight of the density regularisation of atspeed_s; 0: without it.
        lambda_: share of updates in which atspeed_s aligns on the draft's own beams.
        constrained: alignment compares the valid codes after a prefix; false: the whole vocabulary, for which the
            target runs in every update.
        sequences: what atspeed_s and atspeed_r align on: the target's cached sequences, or the item that came next.
    """

    architecture: Architecture | None = None
    base_model: Annotated[str, Field(min_length=1)] | None = None
    alpha: Share = 0.5
    beta: Annotated[float, Field(ge=0)] = 1.0
    lambda_: Annotated[float, Field(ge=0, le=1, alias="lambda")] = 0.25
    constrained: bool = True
    sequences: Literal["top_k", "ground_truth"] = "top_k"
    prefix_containment: PrefixContainment = PrefixContainment()
    num_updates: Positive = 600
    batch_size: Positive = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warm: WarmAlign = WarmAlign()
    one_shot: OneShot = OneShot()
    seed: int = 0

    @model_validator(mode="after")
    def _either_scratch_or_base(self) -> "AlignDraft":
        if (self.base_model is None) == (self.architecture is None):
            raise ValueError("set exactly one of 'base_model' (pretrained) and 'architecture' (from scratch)")
        return self

    def warmed(self) -> "AlignDraft":
        """These settings for a training that starts from the champion's weights."""
        return self.model_copy(update={**dict(self.warm), "one_shot": self.one_shot.warmed()})


class PlanDecoding(Section):
    """What the plan of decoding is made from.

    Attributes:
        users: validation users whose lists tell how far the draft is off.
        batches: requests in one call that are planned for.
        prompt_percentiles: of the users' prompt lengths, each planned for.
        repetitions: timed calls at each point of the cost curve.
    """

    users: Positive = 256
    batches: Annotated[list[Positive], Field(min_length=1)] = [1, 32]
    prompt_percentiles: Annotated[list[Annotated[int, Field(ge=0, le=100)]], Field(min_length=1)] = [50, 95]
    repetitions: Positive = 5


class CallsByNodes(Section):
    """The curve of target calls against nodes.

    Attributes:
        ks: list lengths, those of them that are evaluated.
        nodes: nodes drafted for every request.
        users: test users, the same for all methods; null: all.
    """

    ks: list[Positive] = [10, 20]
    nodes: list[Positive] = [32, 64, 128, 192, 256, 384]
    users: Positive | None = 256


class SasRec(Section):
    """Training of the baseline SASRec; validation users decide after how many updates it is best.

    Attributes:
        dropout: more for sparser data.
        max_updates: with 64 windows of training histories each; they bound its time.
    """

    hidden_size: Annotated[int, Field(gt=0, multiple_of=2)] = 64  # two heads
    dropout: Share = 0.2
    max_updates: Positive = 1000


class Evaluate(Section):
    """What is measured, over all test users.

    Attributes:
        draft_beams: N of the published scheme, nodes drafted a level in every round.
        draft_steps: gamma of the published scheme, levels drafted in every round.
        published_users: test users of AS by the published scheme; null: all.
        tree_attention: the target scores all drafted beams in one sequence; false: each in a row of its own.
    """

    ks: list[Positive] = [1, 3, 5, 10, 20]
    verifications: list[Verification] = ["strict", "relaxed"]
    draft_beams: Positive = 40
    draft_steps: Positive = 3
    published_users: Positive | None = None
    tree_attention: bool = True
    exclude_history: bool = True
    plan: PlanDecoding = PlanDecoding()
    calls_by_nodes: CallsByNodes = CallsByNodes()
    sasrec: SasRec = SasRec()
    temperature: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Positive = 32
    timing_users: Annotated[int, Field(ge=2)] = 48
    bootstrap_samples: Positive = 2000
    seed: int = 0

    @model_validator(mode="after")
    def _draft_is_as_wide_as_the_lists(self) -> "Evaluate":
        if self.ks and self.draft_beams < max(self.ks):
            raise ValueError(
                f"'draft_beams' ({self.draft_beams}) must be at least the largest of 'ks' ({max(self.ks)})"
            )
        return self


class Report(Section):
    """What people look at."""

    title: str = "AtSpeed nightly"


class Params(Section):
    """The whole of `params.yaml`."""

    warm_start: WarmStart = WarmStart()
    prepare_data: PrepareData
    build_identifiers: BuildIdentifiers = BuildIdentifiers()
    finetune_target: FinetuneTarget
    cache_topk: CacheTopk = CacheTopk()
    align_draft: AlignDraft
    evaluate: Evaluate = Evaluate()
    report: Report = Report()


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check `params.yaml`.

    Raises:
        UserError: the file is missing or no YAML mapping, a key is unknown (the nearest known one is named),
            or a value is out of its range; every fault is in the one message.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's folder or give --params") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected sections such as 'prepare_data:', found {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(_explain(fault) for fault in error.errors())) from None


def _explain(fault: Any) -> str:
    location = [str(part) for part in fault["loc"]]
    name = ".".join(location)
    if fault["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else "known: " + ", ".join(known)
        return f"unknown key '{name}'; {hint}"
    if fault["type"] == "missing":
        return f"'{name}' is missing"
    return f"'{name}': {fault['msg'].removeprefix('Value error, ')} (got {fault['input']!r:.80})"


def _known_keys(location: list[str]) -> list[str]:
    model: type[BaseModel] = Params
    for part in location:
        field = next(f for n, f in model.model_fields.items() if part in (n, f.alias))
        model = _section_of(field.annotation)
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_of(annotation: Any) -> type[BaseModel]:
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return typing.cast("type[BaseModel]", annotation)
