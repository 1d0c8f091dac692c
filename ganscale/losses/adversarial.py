"""Adversarial objectives as pure functions of logits, one value per sample, computed without overflow.

Every function takes logits `[N]` (never probabilities) and returns a loss `[N]` to be minimized. sigma is the logistic
function; log sigma(x) = -softplus(-x). `Targets` smooths the labels of the objectives that have labels.
`ganscale.config.losses.LOSSES` names the functions of each objective.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ganscale.parallel.collectives import all_reduce_sum


class Targets(NamedTuple):
    """Labels of the discriminator's classification: 1 and 0, or smoothed (Salimans et al. 2016, section 3.4)."""

    real: float = 1.0
    fake: float = 0.0


HARD = Targets()


def cross_entropy_discriminator(real_logits: Tensor, fake_logits: Tensor, targets: Targets = HARD) -> Tensor:
    """Binary cross-entropy of both; with targets 1 and 0 it is -log D(x) - log(1 - D(G(z))).

    Goodfellow et al. 2014, Eq. 1. With target t the loss of a logit a is softplus(-a) + (1 - t) a.

    Args:
        real_logits: D(x), `[N]`.
        fake_logits: D(G(z)), `[N]`.
        targets: labels t of real and fake examples.
    """
    real = softplus(-real_logits)
    if targets.real != 1.0:
        real = real + (1.0 - targets.real) * real_logits
    fake = softplus(fake_logits)
    if targets.fake != 0.0:
        fake = fake - targets.fake * fake_logits
    return real + fake


def minimax_generator(fake_logits: Tensor, _: Tensor | None = None) -> Tensor:
    """log(1 - D(G(z))), which saturates where D is confident (Goodfellow et al. 2014, Eq. 1).

    Args:
        fake_logits: D(G(z)), `[N]`.
    """
    return -softplus(fake_logits)


def non_saturating_generator(fake_logits: Tensor, _: Tensor | None = None) -> Tensor:
    """-log D(G(z)) (Goodfellow et al. 2014, section 3, last paragraph before Theorem 1).

    Args:
        fake_logits: D(G(z)), `[N]`.
    """
    return softplus(-fake_logits)


def least_squares_discriminator(real_logits: Tensor, fake_logits: Tensor, targets: Targets = HARD) -> Tensor:
    """((D(x) - b)^2 + (D(G(z)) - a)^2) / 2 with b = 1, a = 0 (Mao et al. 2017, Eqs. 2 and 9).

    Args:
        real_logits: D(x), `[N]`.
        fake_logits: D(G(z)), `[N]`.
        targets: b for real and a for fake examples.
    """
    return 0.5 * ((real_logits - targets.real).square() + (fake_logits - targets.fake).square())


def least_squares_generator(fake_logits: Tensor, _: Tensor | None = None) -> Tensor:
    """(D(G(z)) - c)^2 / 2 with c = 1 (Mao et al. 2017, Eqs. 2 and 9).

    Args:
        fake_logits: D(G(z)), `[N]`.
    """
    return 0.5 * (fake_logits - 1.0).square()


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor, _: Targets = HARD) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))) (Lim and Ye 2017; Miyato et al. 2018, Eq. 16).

    Args:
        real_logits: D(x), `[N]`.
        fake_logits: D(G(z)), `[N]`.
    """
    return (1.0 - real_logits).relu() + (1.0 + fake_logits).relu()


def wasserstein_discriminator(real_logits: Tensor, fake_logits: Tensor, _: Targets = HARD) -> Tensor:
    """D(G(z)) - D(x) (Arjovsky et al. 2017, Algorithm 1, line 5).

    Args:
        real_logits: D(x), `[N]`.
        fake_logits: D(G(z)), `[N]`.
    """
    return fake_logits - real_logits


def wasserstein_generator(fake_logits: Tensor, _: Tensor | None = None) -> Tensor:
    """-D(G(z)) (Arjovsky et al. 2017, Algorithm 1, line 10; also of the hinge loss, Miyato et al. 2018, Eq. 17).

    Args:
        fake_logits: D(G(z)), `[N]`.
    """
    return -fake_logits


def relativistic_pairing_discriminator(real_logits: Tensor, fake_logits: Tensor, _: Targets = HARD) -> Tensor:
    """softplus(-(D(x) - D(G(z)))) (Jolicoeur-Martineau 2018, section 4.1; RpGAN of Huang et al. 2024, Eq. 2).

    Args:
        real_logits: D(x), `[N]`.
        fake_logits: D(G(z)) paired with the rows of real_logits, `[N]`.
    """
    return softplus(fake_logits - real_logits)


def relativistic_pairing_generator(fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
    """softplus(-(D(G(z)) - D(x))) (Jolicoeur-Martineau 2018, section 4.1).

    Args:
        fake_logits: D(G(z)), `[N]`.
        real_logits: D(x) paired with the rows of fake_logits, `[N]`.
    """
    assert real_logits is not None, "compares is set"
    return softplus(real_logits - fake_logits)


def _mean_over_replicas(logits: Tensor) -> Tensor:
    """Mean of a batch that the replicas share, differentiable: `[]`."""
    total = all_reduce_sum(torch.stack((logits.sum(), logits.new_tensor(float(logits.shape[0])))))
    return total[0] / total[1].detach()


def relativistic_average_discriminator(real_logits: Tensor, fake_logits: Tensor, _: Targets = HARD) -> Tensor:
    """softplus(-(D(x) - mean D(G(z)))) + softplus(D(G(z)) - mean D(x)) (Jolicoeur-Martineau 2018, section 4.2).

    The means run over the whole micro-batch of all replicas.

    Args:
        real_logits: D(x), `[N]`.
        fake_logits: D(G(z)), `[N]`.
    """
    real_mean, fake_mean = _mean_over_replicas(real_logits), _mean_over_replicas(fake_logits)
    return softplus(fake_mean - real_logits) + softplus(fake_logits - real_mean)


def relativistic_average_generator(fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
    """The same with real and fake exchanged (Jolicoeur-Martineau 2018, section 4.2).

    Args:
        fake_logits: D(G(z)), `[N]`.
        real_logits: D(x), `[N]`.
    """
    assert real_logits is not None, "compares is set"
    return relativistic_average_discriminator(fake_logits, real_logits)
