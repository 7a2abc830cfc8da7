"""Base class and common types of the sections of `params.yaml`."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from atspeed_core.variants import Variants

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A section of `params.yaml`: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def variant_in(package: str, noun: str) -> AfterValidator:
    """Check of a setting that names one of the variants in `package`; imports neither the package nor a variant.

    Args:
        package: dotted name; settings stand below it, so they know it by name alone.
        noun: what one variant is called in messages.
    """
    variants = Variants(package, object, noun)

    def known(name: str) -> str:
        if name not in (names := variants.names()):
            raise ValueError(f"no such {noun}; known: {', '.join(names)}")
        return name

    return AfterValidator(known)
