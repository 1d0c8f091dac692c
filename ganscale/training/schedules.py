"""Settings that change during a run, as pure functions of images."""

from dataclasses import dataclass
from itertools import count

from torch import Tensor

from ganscale.config import LOSSES
from ganscale.config.schedules import half_life, value
from ganscale.config.schema import Config
from ganscale.health.policy import rate_scale
from ganscale.training.augment import AdaptiveRule
from ganscale.training.auto import EVERY, GammaRule

Number = float | Tensor
"""A value of an iteration: a float, or inside a CUDA graph, where a float would stay what it was, a tensor `[]`."""


def is_on(value: Number) -> bool:
    """Whether a weight, a probability or a deviation has an effect; only values that have one become tensors.

    Args:
        value: at least 0.
    """
    return isinstance(value, Tensor) or value > 0.0


@dataclass(frozen=True)
class PenaltyWeights:
    """Weights of one D update; a lazy penalty has its weight times its interval when due and 0 otherwise."""

    gp: Number = 0.0
    r1: Number = 0.0
    r2: Number = 0.0
    dragan: Number = 0.0
    drift: Number = 0.0
    lecam: Number = 0.0
    centering: Number = 0.0


@dataclass(frozen=True)
class Controls:
    """What may differ from one iteration to the next.

    Attributes:
        lr_g: learning rate of the generator.
        lr_d: learning rate of the discriminator.
        betas_g: Adam's betas for the generator.
        betas_d: Adam's betas for the discriminator.
        path_length: weight of G's path length regularization times its interval when due; 0 otherwise.
        noise: standard deviation of instance noise.
        penalties: weights for each D update of the iteration.
        augment_p: probability of each transform of D's inputs, in [0, 1].
        details: whether to return `Statistics.sums` and gradient norms.
        signs: whether to return the sum of signs that ADA averages.
    """

    lr_g: Number
    lr_d: Number
    betas_g: tuple[float, float]
    betas_d: tuple[float, float]
    noise: Number
    penalties: tuple[PenaltyWeights, ...]
    augment_p: Number = 0.0
    path_length: float = 0.0
    details: bool = False
    signs: bool = False


class Schedule:
    """What a run's config says about each iteration.

    Args:
        config: the run.
        least_gamma: of R1 and R2, with `penalty.auto`; also the first.

    Attributes:
        shares: of G and D, by which rates are multiplied, and to which moving averages of gradients are raised, where a
            network takes more steps than its loss has (Karras et al. 2020, appendix B).
    """

    def __init__(self, config: Config, least_gamma: float = 1.0) -> None:
        self._config = config
        width = config.optim.base_width
        sides = (config.model.generator, config.model.discriminator)
        self._widths = tuple(width / getattr(side, "width", width) if width else 1.0 for side in sides)
        augment = config.augment
        self.adaptive = AdaptiveRule(augment.target, augment.speed, augment.every) if augment.adaptive else None
        penalty = config.penalty
        separate = penalty.r1_separate and (penalty.auto or penalty.r1 != 0.0)
        every_g, every_d = (penalty.path_length_every, penalty.r1_every)
        self.shares = (
            every_g / (every_g + 1) if penalty.path_length != 0.0 else 1.0,
            every_d / (every_d + 1) if separate else 1.0,
        )
        guessing_loss = LOSSES[config.loss.name].guessing_loss
        self.gamma_rule = (
            GammaRule(guessing_loss, config.train.images, least_gamma)
            if config.penalty.auto and guessing_loss
            else None
        )

    def controls(
        self,
        images: int,
        rollbacks: int = 0,
        *,
        augment_p: float = 0.0,
        gamma: float = 1.0,
        rate: float | None = None,
        details: bool = False,
    ) -> Controls:
        """Controls of the iteration whose first image is number `images`.

        Args:
            images: before the iteration.
            rollbacks: of the run so far, each of which lowers rates and raises penalties.
            augment_p: probability of each transform of D's inputs.
            gamma: of R1 and R2, with `penalty.auto`.
            rate: of both networks in place of the config's, with `optim.auto`.
            details: whether the iteration returns details for the log.
        """
        optim, batch_size = self._config.optim, self._config.train.batch_size
        scale = rate_scale(self._config.health.rate_factor, rollbacks, images / self._config.train.images)
        beta2 = None if optim.beta2 is None else value(optim.beta2, images)
        share_g, share_d = self.shares
        return Controls(
            lr_g=scale * share_g * (rate or self._widths[0] * value(optim.lr_g, images)),
            lr_d=scale * share_d * (rate or self._widths[1] * value(optim.lr_d, images)),
            betas_g=_betas(optim.betas_g, beta2, share_g),
            betas_d=_betas(optim.betas_d, beta2, share_d),
            noise=value(self._config.augment.noise, images),
            penalties=tuple(
                self.penalties(images + d * batch_size, rollbacks, gamma=gamma) for d in range(optim.d_steps)
            ),
            augment_p=augment_p,
            path_length=self._path_length(images),
            details=details,
            signs=self.adaptive is not None,
        )

    def penalties(self, images: int, rollbacks: int = 0, *, gamma: float = 1.0) -> PenaltyWeights:
        """Weights of one D update; 0 where a lazy penalty is not due.

        Args:
            images: number of its first image.
            rollbacks: of the run so far, each of which raises penalties.
            gamma: of R1 and R2, with `penalty.auto`.
        """
        penalty = self._config.penalty
        scale = self._config.health.penalty_factor**rollbacks
        update = images // self._config.train.batch_size
        weights = {}
        for name in ("gp", "r1", "r2", "dragan"):
            every = getattr(penalty, f"{name}_every")
            weight = gamma if penalty.auto and name in ("r1", "r2") else value(getattr(penalty, name), images)
            weights[name] = scale * weight * every if update % every == 0 else 0.0
        for name in ("drift", "lecam", "centering"):
            weights[name] = scale * value(getattr(penalty, name), images)
        return PenaltyWeights(**weights)

    def images_since_change(self, images: int) -> int:
        """Images since gamma could last move (`penalty.auto`): it moves where R1 and R2 are both due.

        Args:
            images: before an iteration in which it moves; the first is taken for one of as many before it.
        """
        penalty, batch_size, d_steps = self._config.penalty, self._config.train.batch_size, self._config.optim.d_steps

        def are_due(first: int) -> bool:
            intervals = (penalty.r1_every, penalty.r2_every)
            return all(any(update % every == 0 for update in range(first, first + d_steps)) for every in intervals)

        update = images // batch_size
        return next(n for n in count(EVERY, EVERY) if are_due(update - n * d_steps)) * d_steps * batch_size

    def augment_p(self, images: int) -> float:
        """Probability of each transform of D's inputs, unless ADA moves it.

        Args:
            images: so far.
        """
        return value(self._config.augment.p, images)

    def _path_length(self, images: int) -> float:
        penalty, batch_size = self._config.penalty, self._config.train.batch_size
        iteration = images // (batch_size * self._config.optim.d_steps)
        is_due = iteration % penalty.path_length_every == 0
        return value(penalty.path_length, images) * penalty.path_length_every if is_due else 0.0

    def half_life(self, images: int) -> float:
        """The moving average's half-life in images, ramped up with the run (Karras et al. 2020, their code).

        Args:
            images: so far.
        """
        return half_life(self._config.ema, images)


def _betas(betas: tuple[float, float], beta2: float | None, share: float) -> tuple[float, float]:
    """Adam's betas, corrected where a network takes more steps than its loss has (Karras et al. 2020, appendix B)."""
    first, second = betas if beta2 is None else (betas[0], beta2)
    return (first, second) if share == 1.0 else (first**share, second**share)
