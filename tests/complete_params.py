"""Sections of params for tests that set what they are about and leave the rest to small, fixed values."""

from typing import Any, TypeVar

from atspeed_core import settings
from atspeed_core.settings.former import FORMER_DEFAULTS
from atspeed_core.settings.section import Section

S = TypeVar("S", bound=Section)
VALUES: dict[str, Any] = {
    "threads": "auto",
    **FORMER_DEFAULTS,
    "evaluate": FORMER_DEFAULTS["evaluate"] | {"lossy_users": None},
    "finetune_target": FORMER_DEFAULTS["finetune_target"] | {"validation_users": None},
}


def completed(raw: dict[str, Any], rest: dict[str, Any] = VALUES) -> dict[str, Any]:
    """`raw`, the content of a params.yaml, with values from `rest` for the required settings that it lacks."""
    full = dict(raw)
    for key, value in rest.items():
        if key == "architecture" and not isinstance(raw.get(key), dict):
            continue  # an alternative to base_model
        if isinstance(value, dict) and isinstance(raw.get(key, {}), dict):
            full[key] = completed(raw.get(key, {}), value)
        else:
            full.setdefault(key, value)
    return full


class Completed:
    """A section's class whose required settings may be left out when it is called."""

    def __init__(self, section: type[S], *path: str) -> None:
        """`path`: where the section stands in params.yaml."""
        self._section, self._rest = section, VALUES
        for part in path:
            self._rest = self._rest[part]

    def __call__(self, **values: Any) -> Any:
        """A section with `values` and, for what they lack, values of its tests."""
        return self._section.model_validate(completed(values, self._rest))


AlignDraft = Completed(settings.AlignDraft, "align_draft")
Architecture = Completed(settings.Architecture, "finetune_target", "architecture")
BuildIdentifiers = Completed(settings.BuildIdentifiers, "build_identifiers")
CacheTopk = Completed(settings.CacheTopk, "cache_topk")
FinetuneTarget = Completed(settings.FinetuneTarget, "finetune_target")
OneShot = Completed(settings.OneShot, "align_draft", "one_shot")
Params = Completed(settings.Params)
PrefixContainment = Completed(settings.PrefixContainment, "align_draft", "prefix_containment")
PrepareData = Completed(settings.PrepareData, "prepare_data")
