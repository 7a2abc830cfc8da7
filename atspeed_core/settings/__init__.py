"""`params.yaml` as one typed model: the only place where a setting is declared, checked and explained.

One module per section; `Params` is the whole file.
"""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from atspeed_core.errors import UserError
from atspeed_core.settings.align_draft import (
    AlignDraft,
    MethodName,
    OneShot,
    OneShotShape,
    PrefixContainment,
    WarmAlign,
    method_names,
)
from atspeed_core.settings.architecture import Architecture
from atspeed_core.settings.build_identifiers import BuildIdentifiers, RqVae
from atspeed_core.settings.cache_topk import CacheTopk
from atspeed_core.settings.decoding import DecodingConfig
from atspeed_core.settings.evaluate import CallsByNodes, Evaluate, PlanDecoding, SasRec
from atspeed_core.settings.finetune_target import DeepSpeed, FinetuneTarget, Lora, WarmFinetune
from atspeed_core.settings.former import former_default
from atspeed_core.settings.prepare_data import Columns, PrepareData
from atspeed_core.settings.report import Report
from atspeed_core.settings.section import Positive, Section, Share
from atspeed_core.settings.warm_start import WarmStart
from atspeed_core.validation import explain

__all__ = [
    "AlignDraft",
    "Architecture",
    "BuildIdentifiers",
    "CacheTopk",
    "CallsByNodes",
    "Columns",
    "DecodingConfig",
    "DeepSpeed",
    "Evaluate",
    "FinetuneTarget",
    "Lora",
    "MethodName",
    "OneShot",
    "OneShotShape",
    "Params",
    "PlanDecoding",
    "Positive",
    "PrefixContainment",
    "PrepareData",
    "Report",
    "RqVae",
    "SasRec",
    "Section",
    "Share",
    "WarmAlign",
    "WarmFinetune",
    "WarmStart",
    "load_params",
    "method_names",
]


class Params(Section):
    """The whole of `params.yaml`.

    Attributes:
        threads: on the CPU, per stage; "auto": by the target's size (tasks/threads.py).
    """

    threads: Positive | Literal["auto"]
    warm_start: WarmStart
    prepare_data: PrepareData
    build_identifiers: BuildIdentifiers
    finetune_target: FinetuneTarget
    cache_topk: CacheTopk
    align_draft: AlignDraft
    evaluate: Evaluate
    report: Report

    def decoding(self) -> DecodingConfig:
        """How recommenders of these params decode."""
        return DecodingConfig.from_params(self.model_dump())


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
        raise UserError(f"{path}: {explain(error, Params, if_missing=_former_value)}") from None


def _former_value(location: list[str]) -> str | None:
    """What to add to a `params.yaml` from before the setting had to be there; None where it always had to."""
    former = former_default(location)
    if former is None:
        return None
    line = yaml.safe_dump({location[-1]: former[0]}, default_flow_style=True, sort_keys=False, width=4096).strip()[1:-1]
    where = f" in '{'.'.join(location[:-1])}'" if location[1:] else ""
    return f"add{where} what has been in effect without it: {line}"
