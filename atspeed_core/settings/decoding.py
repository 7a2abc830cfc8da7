"""How a recommender decodes: the settings of several sections in one typed object, built in one place."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from atspeed_core.settings.former import FORMER_DEFAULTS
from atspeed_core.settings.section import Positive, Section

# Section of params.yaml that contains the setting.
SECTIONS = {
    "draft_beams": "evaluate",
    "draft_steps": "evaluate",
    "temperature": "evaluate",
    "tree_attention": "evaluate",
    "exclude_history": "evaluate",
    "max_history": "prepare_data",
}


class DecodingConfig(Section):
    """How a recommender decodes; `Recommender.load` takes one.

    The defaults are those of the library, for callers without a params.yaml. The stages, serving and the batch job
    never use them: `from_params` sets every field.

    Attributes:
        draft_beams: N of the published scheme, nodes drafted per level in every round.
        draft_steps: gamma of the published scheme, levels drafted in every round.
        temperature: of verifications that sample.
        tree_attention: the target scores all nodes of a call in one sequence; false: path by path, each in a row of its
            own. The lists are the same.
        exclude_history: items of a request's history are not recommended to it again.
        max_history: number of most recent items of a history that the models see.
    """

    draft_beams: Positive = 40
    draft_steps: Positive = 3
    temperature: Annotated[float, Field(gt=0)] = 1.0
    tree_attention: bool = True
    exclude_history: bool = False
    max_history: Positive = 20

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "DecodingConfig":
        """The configuration in the content of a params.yaml, of this version of the code or of an earlier one.

        Other settings are not read, so the file may contain sections and keys that this version does not know.
        """
        values = {}
        for field, section in SECTIONS.items():
            values[field] = params.get(section, {}).get(field, FORMER_DEFAULTS[section][field])
        return cls(**values)

    def without_draft(self) -> "DecodingConfig":
        """The same for a target that is loaded without a draft: settings of drafted nodes have their defaults.

        A stage that uses this configuration does not depend on those settings.
        """
        fields = type(self).model_fields
        ignored = ("draft_beams", "draft_steps", "tree_attention")
        return self.model_copy(update={name: fields[name].default for name in ignored})

    def for_training(self) -> "DecodingConfig":
        """The same for computing training data: the target's own distribution over all items.

        Drafts are aligned with the target as it is, whatever lists are recommended later.
        """
        return DecodingConfig(max_history=self.max_history)
