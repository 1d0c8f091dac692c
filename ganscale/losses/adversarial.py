"""Adversarial objectives as pure functions of logits, one value per sample, computed without overflow.

Every function takes logits `[N]` (never probabilities) and returns a loss `[N]` to be minimised. sigma is the logistic
function; log sigma(x) = -softplus(-x).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True)
class AdversarialLoss:
    """The two sides of an objective.

    Attributes:
        discriminator: `(real_logits, fake_logits, label_smoothing) -> loss`, all `[N]`.
        generator: `(fake_logits) -> loss`, both `[N]`.
    """

    discriminator: Callable[[Tensor, Tensor, float], Tensor]
    generator: Callable[[Tensor], Tensor]


def cross_entropy_discriminator(real_logits: Tensor, fake_logits: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-t log D(x) - (1 - t) log(1 - D(x)) - log(1 - D(G(z))), t = 1 - label_smoothing.

    Goodfellow et al. 2014, Eq. 1; one-sided label smoothing: Salimans et al. 2016, section 3.4.
    """
    real = softplus(-real_logits)
    if label_smoothing:
        real = real + label_smoothing * real_logits
    return real + softplus(fake_logits)


def minimax_generator(fake_logits: Tensor) -> Tensor:
    """log(1 - D(G(z))), which saturates where D is sure (Goodfellow et al. 2014, Eq. 1)."""
    return -softplus(fake_logits)


def non_saturating_generator(fake_logits: Tensor) -> Tensor:
    """-log D(G(z)) (Goodfellow et al. 2014, section 3, last paragraph before Theorem 1)."""
    return softplus(-fake_logits)


LOSSES: dict[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(cross_entropy_discriminator, minimax_generator),
    "non_saturating": AdversarialLoss(cross_entropy_discriminator, non_saturating_generator),
}
