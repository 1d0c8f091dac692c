"""The table of adversarial objectives, and the settings of the one that a run uses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from ganscale.config.section import Section, as_tuple
from ganscale.config.table import Choice, Function, resolve


@dataclass(frozen=True)
class AdversarialLoss:
    """The two sides of an objective, and what else depends on which objective it is.

    Attributes:
        discriminator: `(real_logits, fake_logits, targets) -> loss`, all `[N]`, never probabilities.
        generator: `(fake_logits, real_logits) -> loss`, all `[N]`; real_logits is None unless `compares`.
        description: its formula or paper, for the reference page.
        compares: whether the generator's loss needs D's logits of real samples (relativistic objectives).
        has_labels: whether `targets` (label smoothing) mean anything.
        label_smoothing: where the config gives none.
        boundary: logit above which D takes an example for real; None if only differences between logits mean anything.
        guessing_loss: D's loss when it cannot tell real from fake; None if the loss has no scale (a critic's).
        in_nats: whether losses are logarithms of probabilities, so that G's loss shows how confident D is.
    """

    discriminator: Function
    generator: Function
    description: str = ""
    compares: bool = False
    has_labels: bool = False
    label_smoothing: float = 0.0
    boundary: float | None = 0.0
    guessing_loss: float | None = None
    in_nats: bool = False

    def discriminator_loss(self, real_logits: Any, fake_logits: Any, targets: Any) -> Any:
        """D's loss of each row, `[N]`.

        Args:
            real_logits: D(x), `[N]`.
            fake_logits: D(G(z)), `[N]`.
            targets: labels of real and fake examples.
        """
        return resolve(self.discriminator)(real_logits, fake_logits, targets)

    def generator_loss(self, fake_logits: Any, real_logits: Any) -> Any:
        """G's loss of each row, `[N]`.

        Args:
            fake_logits: D(G(z)), `[N]`.
            real_logits: D(x), `[N]`; may be None unless `compares`.
        """
        return resolve(self.generator)(fake_logits, real_logits)


_D, _G = "ganscale.losses.adversarial:{}_discriminator".format, "ganscale.losses.adversarial:{}_generator".format
_CROSS_ENTROPY: Any = {"has_labels": True, "label_smoothing": 0.1, "guessing_loss": 2 * math.log(2), "in_nats": True}
_RELATIVISTIC: Any = {"compares": True, "boundary": None, "in_nats": True}

LOSSES: dict[str, AdversarialLoss] = {
    "non_saturating": AdversarialLoss(
        _D("cross_entropy"), _G("non_saturating"), "-log D(G(z)) of Goodfellow et al. 2014", **_CROSS_ENTROPY
    ),
    "minimax": AdversarialLoss(
        _D("cross_entropy"), _G("minimax"), "saturating log(1 - D(G(z))) of Goodfellow et al. 2014", **_CROSS_ENTROPY
    ),
    "least_squares": AdversarialLoss(
        _D("least_squares"), _G("least_squares"), "LSGAN", has_labels=True, boundary=0.5, guessing_loss=0.25
    ),
    "hinge": AdversarialLoss(_D("hinge"), _G("wasserstein"), "the margin loss of Lim and Ye 2017", guessing_loss=2.0),
    "wasserstein": AdversarialLoss(_D("wasserstein"), _G("wasserstein"), "WGAN", boundary=None),
    "relativistic_pairing": AdversarialLoss(
        _D("relativistic_pairing"),
        _G("relativistic_pairing"),
        "RpGAN, R3GAN's",
        guessing_loss=math.log(2),
        **_RELATIVISTIC,
    ),
    "relativistic_average": AdversarialLoss(
        _D("relativistic_average"),
        _G("relativistic_average"),
        "RaGAN",
        guessing_loss=2 * math.log(2),
        **_RELATIVISTIC,
    ),
}
"""Every objective by name."""


Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]


class Loss(Section):
    """The adversarial objective and what is added to the generator's side of it."""

    name: Annotated[str, Choice(LOSSES)] = Field(default="non_saturating", description="Objective.")
    label_smoothing: float = Field(
        default=0.1,
        ge=0.0,
        lt=0.5,
        description="One-sided label smoothing: the target of real images is 1 minus this. Where it is not given, "
        "objectives other than non_saturating and minimax have 0.",
    )
    fake_label_smoothing: float = Field(
        default=0.0, ge=0.0, lt=0.5, description="With label_smoothing two-sided: the target of fake images."
    )
    feature_matching: float = Field(
        default=0.0,
        ge=0.0,
        description="Weight of |mean f(x) - mean f(G(z))|^2 over D's last features in G's loss (Salimans et al. 2016, "
        "3.1); exact for any number of workers.",
    )
    class_weight: float = Field(
        default=1.0,
        ge=0.0,
        description="Weight of the class loss where model.discriminator.conditioning is acgan or reacgan.",
    )
    class_temperature: float = Field(
        default=0.5, gt=0.0, le=100.0, description="ReACGAN: by what similarities are divided (Kang et al. 2021)."
    )
    class_margins: Annotated[tuple[Cosine, Cosine], BeforeValidator(as_tuple)] = Field(
        default=(0.98, 0.02),
        description="ReACGAN: similarity of an example and its class above which nothing pulls, and of two examples of "
        "different classes below which nothing pushes.",
    )
    clip_weights: float = Field(
        default=0.0, ge=0.0, description="Clamp D's weights to this size after each update (WGAN: 0.01); 0: do not."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_smoothing(cls, raw: Any) -> Any:
        """The default smoothing is the textbook run's; another objective has its own."""
        name = raw.get("name") if isinstance(raw, Mapping) else None
        if isinstance(name, str) and name in LOSSES:
            return {"label_smoothing": LOSSES[name].label_smoothing, **raw}
        return raw
