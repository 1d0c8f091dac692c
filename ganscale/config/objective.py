"""Settings of penalties, augmentation, and numbers that follow a schedule."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from ganscale.config.section import Count, Section, as_tuple


class Scheduled(Section):
    """A number that moves from `start` to `end` while `over` images pass, from `begin` on."""

    start: float = Field(description="Value until `begin` images.")
    end: float = Field(description="Value from `begin + over` images on.")
    begin: Count = Field(default=0, ge=0, description="Images after which it begins to move.")
    over: Count = Field(ge=1, description="Images that the move takes.")
    curve: Literal["linear", "cosine", "exponential"] = Field(
        default="linear", description="Shape of the move; exponential needs start and end above 0."
    )


def _kind(value: object) -> str:
    return "schedule" if isinstance(value, dict | Scheduled) else "number"


def _between(low: float, high: float, *, open_low: bool = False) -> AfterValidator:
    """Hold a number, or both ends of a schedule, within bounds."""

    def check(value: float | Scheduled) -> float | Scheduled:
        ends = (value.start, value.end) if isinstance(value, Scheduled) else (value,)
        for end in ends:
            if not (low < end if open_low else low <= end) or end > high:
                sign = "greater than" if open_low else "at least"
                raise ValueError(f"a number {sign} {low:g} and at most {high:g}")
        if isinstance(value, Scheduled) and value.curve == "exponential" and min(ends) <= 0:
            raise ValueError("a number above 0 at both ends of an exponential curve")
        return value

    check.__doc__ = f"{'>' if open_low else '>='} {low:g}, <= {high:g}"  # the reference page shows it
    return AfterValidator(check)


_Number = Annotated[
    Annotated[float, Tag("number")] | Annotated[Scheduled, Tag("schedule")],
    Discriminator(_kind),
]
Rate = Annotated[_Number, _between(0.0, 10.0, open_low=True)]
Weight = Annotated[_Number, _between(0.0, 1e6)]
Share = Annotated[_Number, _between(0.0, 0.999999)]
Probability = Annotated[_Number, _between(0.0, 1.0)]
Images = Annotated[_Number, _between(0.0, 1e12)]


Estimate = Literal["exact", "finite_difference"]


class Penalty(Section):
    """Penalties on D, and orthogonal on G; any combination. A lazy one counts `every` times when it is due."""

    auto: bool = Field(
        default=False,
        description="Set gamma of R1 and R2 during the run so that D's lead stays what it should be; r1, r2, gp and "
        "dragan are then not to be given (docs/auto.md).",
    )
    gp: Weight = Field(
        default=0.0, description="WGAN-GP: weight of (|dD/dx| - 1)^2 between real and fake (Gulrajani et al. 2017: 10)."
    )
    gp_every: Count = Field(default=1, ge=1, description="D updates between two times that gp is due.")
    gp_target: float = Field(default=1.0, ge=0.0, description="Gradient norm that gp and dragan pull towards.")
    r1: Weight = Field(
        default=0.0, description="R1: gamma of gamma/2 |dD/dx|^2 on real images (Mescheder et al. 2018)."
    )
    r1_every: Count = Field(default=1, ge=1, description="D updates between two times that r1 is due.")
    r1_mode: Estimate = Field(
        default="exact",
        description="How r1 is computed: by differentiating twice, or as a finite difference of D, which needs no "
        "second derivative and so allows train.compile (Lin et al. 2025, APT).",
    )
    r1_separate: bool = Field(
        default=False,
        description="Give r1, when it is due, a backward pass and an optimizer step of its own, as StyleGAN2's code. "
        "With c = r1_every / (r1_every + 1), D's rate is then multiplied by c, and beta^c and alpha^c take the "
        "place of its betas and of RMSprop's alpha.",
    )
    r2: Weight = Field(
        default=0.0, description="R2: gamma of gamma/2 |dD/dx|^2 on fake images (Mescheder et al. 2018)."
    )
    r2_every: Count = Field(default=1, ge=1, description="D updates between two times that r2 is due.")
    r2_mode: Estimate = Field(default="exact", description="How r2 is computed, as r1_mode.")
    sigma: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="Standard deviation of a finite difference's step, where data lie in [-1, 1]; null: 0.1 for "
        "images, 0.01 for 2-D points.",
    )
    dragan: Weight = Field(
        default=0.0, description="DRAGAN: weight of (|dD/dx| - 1)^2 around real images (Kodali et al. 2017: 10)."
    )
    dragan_every: Count = Field(default=1, ge=1, description="D updates between two times that dragan is due.")
    path_length: Weight = Field(
        default=0.0,
        description="Weight of (|J^T y| - a)^2 of G, J its Jacobian by w (of networks without styles, by z), y noise "
        "and a the mean length so far (Karras et al. 2020, Eq. 4: 2), on every second image.",
    )
    path_length_every: Count = Field(
        default=4,
        ge=1,
        description="Iterations between two times that path_length is due, in an optimizer step of its own; G's rate "
        "and betas or alpha are corrected as by r1_separate.",
    )
    drift: Weight = Field(default=0.0, description="Weight of D(x)^2 on real images (Karras et al. 2018: 0.001).")
    orthogonal: float = Field(
        default=0.0,
        ge=0.0,
        le=1e6,
        description="Weight of |W W^T - diagonal|^2 over G's weights but embeddings (Brock et al. 2019, Eq. 3: 1e-4).",
    )

    lecam: Weight = Field(
        default=0.0,
        description="LeCam: weight of (D(x) - a)^2 + (D(G(z)) - b)^2, a and b moving averages of D(G(z)) and D(x) over "
        "all workers, for few images (Tseng et al. 2021: 0.01 to 0.3).",
    )
    lecam_decay: float = Field(
        default=0.99, ge=0.0, lt=1.0, description="What a D update leaves of the weight of those averages' past."
    )
    centering: Weight = Field(
        default=0.0,
        description="Logit centering: weight of (D(x) + D(G(z)))^2, which holds the logits of relativistic objectives "
        "around 0 (Lin et al. 2025, Adversarial Flow Models: 0.01).",
    )

    @property
    def levels(self) -> bool:
        """Whether a penalty depends on the level of D's logits, which a relativistic objective leaves open."""
        return any(getattr(self, name) != 0.0 for name in ("drift", "lecam", "centering"))

    @property
    def estimated(self) -> frozenset[str]:
        """The penalties that are finite differences: some of "r1" and "r2"."""
        return frozenset(name for name in ("r1", "r2") if getattr(self, f"{name}_mode") == "finite_difference")


# fmt: off
Transform = Literal[
    "flip", "rotate90", "translation", "cutout", "brightness", "saturation", "contrast",
    "ada_xflip", "ada_rotate90", "ada_xint", "ada_scale", "ada_rotate", "ada_aniso", "ada_xfrac",
    "ada_brightness", "ada_contrast", "ada_lumaflip", "ada_hue", "ada_saturation",
    "ada_filter", "ada_noise", "ada_cutout",
    "diffaugment", "blit", "geom", "color", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc",
]
# fmt: on
_BLIT = ("ada_xflip", "ada_rotate90", "ada_xint")
_GEOM = ("ada_scale", "ada_rotate", "ada_aniso", "ada_xfrac")
_COLOR = ("ada_brightness", "ada_contrast", "ada_lumaflip", "ada_hue", "ada_saturation")
GROUPS: dict[str, tuple[str, ...]] = {
    "diffaugment": ("brightness", "saturation", "contrast", "translation", "cutout"),
    "blit": _BLIT,
    "geom": _GEOM,
    "color": _COLOR,
    "bg": (*_BLIT, *_GEOM),
    "bgc": (*_BLIT, *_GEOM, *_COLOR),
    "bgcf": (*_BLIT, *_GEOM, *_COLOR, "ada_filter"),
    "bgcfn": (*_BLIT, *_GEOM, *_COLOR, "ada_filter", "ada_noise"),
    "bgcfnc": (*_BLIT, *_GEOM, *_COLOR, "ada_filter", "ada_noise", "ada_cutout"),
}
"""Names that stand for several transforms."""


class Augment(Section):
    """What D sees instead of the plain images, real and fake alike; G learns through it."""

    noise: Weight = Field(
        default=0.0, description="Standard deviation of instance noise on D's inputs (Soenderby et al. 2017)."
    )
    transforms: Annotated[tuple[Transform, ...], BeforeValidator(as_tuple)] = Field(
        default=(),
        description="Differentiable transforms: those of DiffAugment (Zhao et al. 2020; diffaugment: all five), and "
        "with ada_ those of ADA (Karras et al. 2020, appendix B; bgc: what the paper uses).",
    )
    strength: dict[Transform, Annotated[float, Field(ge=0.0, le=1.0)]] = Field(
        default={}, description="Factors of p for some transforms or groups, e.g. {color: 0.5}; 1 for the others."
    )
    p: Probability = Field(default=1.0, description="Probability of each transform (at first, if adaptive).")
    adaptive: bool = Field(
        default=False, description="Adapt p to D's overfitting (ADA, Karras et al. 2020), over all workers."
    )
    target: float = Field(default=0.6, ge=-1.0, le=1.0, description="ADA: wanted mean of sign(D(real)).")
    every: Count = Field(default=4, ge=1, description="ADA: iterations between two changes of p.")
    speed: Count = Field(default=500_000, ge=1, description="ADA: images in which p could go from 0 to 1.")

    @property
    def names(self) -> tuple[str, ...]:
        """The transforms that are asked for, one by one."""
        return tuple(name for each in self.transforms for name in GROUPS.get(each, (each,)))

    @property
    def factors(self) -> dict[str, float]:
        """By which p is multiplied, for some transforms; of two that name one transform the later holds."""
        return {name: factor for key, factor in self.strength.items() for name in GROUPS.get(key, (key,))}
