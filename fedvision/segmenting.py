"""The section of a config about segmentation: what is learned of each pixel, and how it is measured."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedvision.schema import Section

Loss = Literal["cross_entropy", "dice", "tversky", "boundary"]


def _cross_entropy() -> dict[Loss, float]:
    return {"cross_entropy": 1.0}


class Crf(Section):
    """A conditional random field that refines what is predicted by what neighbouring pixels look like; nothing is trained with it."""

    similar: float = Field(2.0, ge=0, description="weight of neighbours that look alike: what they add where all agree, nats")
    similar_space: float = Field(3.0, gt=0, le=30, description="σ of how near they are, pixels")
    similar_colour: float = Field(0.1, gt=0, description="σ of how alike they look, in units of data.std")
    near: float = Field(0.0, ge=0, description="weight of neighbours however they look: what they add where all agree, nats")
    near_space: float = Field(1.0, gt=0, le=30, description="σ of how near those are, pixels")
    reach: Annotated[int, Field(ge=1, le=90)] | None = Field(
        None, description="pixels along an axis beyond which two are no neighbours; null = three times the larger σ"
    )
    iterations: Annotated[int, Field(ge=1, le=100)] = Field(5, description="steps of mean field")


class Segmentation(Section):
    """What task = segmentation trains on and how it measures."""

    losses: dict[Loss, Annotated[float, Field(gt=0)]] = Field(
        default_factory=_cross_entropy, description="weights of the losses that are added up, each a number an image"
    )
    tversky: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=lambda: [0.3, 0.7],
        min_length=2,
        max_length=2,
        description="weights of false and of missed pixels in the Tversky loss",
    )
    background: str | None = Field(
        None, description="class that is left out of the means and of the Dice, Tversky and boundary losses; null = every class counts"
    )
    tolerance: float = Field(2.0, ge=0, description="distance up to which a boundary was found, pixels (boundary_f)")
    crf: Crf | None = Field(
        None, description="refinement of what is predicted, when it is measured and shown; null = as the network says it"
    )
    surfaces: bool = Field(True, description="measure boundary_f and hd95 too, which takes a distance map a class and image")

    @model_validator(mode="after")
    def _some_loss(self) -> "Segmentation":
        if not self.losses:
            raise ValueError("segmentation.losses = {} leaves nothing to train on; give one, e.g. {cross_entropy: 1.0}")
        return self
