"""Penalties on the discriminator, one value per sample, weights not included.

A gradient penalty needs a graph of its gradient, so these differentiate twice. Logits go in summed: samples are
independent, hence the gradient of the sum is each sample's own gradient (through cross-replica batch norm it is the
gradient of the sum over all replicas, as on one).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ganscale.parallel.collectives import sum_over_replicas


def input_gradients(logits: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """dD/dx of each sample, with a graph, for each of `inputs`.

    Args:
        logits: D's logits, `[N]`, made from `inputs` with a graph.
        *inputs: D's inputs, `[N, ...]` each.
    """
    return torch.autograd.grad(logits.sum(), inputs, create_graph=True)


def _squared_norm(gradients: Tensor) -> Tensor:
    """|g|^2 of each sample: `[N, ...]` to `[N]`."""
    return gradients.flatten(1).square().sum(1)


def zero_centered(gradients: Tensor) -> Tensor:
    """|dD/dx|^2 / 2 of each sample: R1 on real and R2 on fake samples (Mescheder et al. 2018, Eqs. 9 and 10).

    Args:
        gradients: of D's input, `[N, ...]`.
    """
    return 0.5 * _squared_norm(gradients)


def finite_difference(logits: Tensor, shifted: Tensor, sigma: float) -> Tensor:
    """(D(x + sigma e) - D(x))^2 / (2 sigma^2) of each sample, which estimates `zero_centered` without its derivative.

    For e ~ N(0, I) its mean over e is |dD/dx|^2 / 2 + O(sigma^2), so that the penalty's weight keeps its meaning (the
    approximated R1 of Lin et al. 2025, "Diffusion Adversarial Post-Training", divided by 2 sigma^2). Where D's output
    for a sample depends on the other samples, so does the difference: all of them are shifted.

    Args:
        logits: D(x), `[N]`.
        shifted: D(x + sigma e), `[N]`.
        sigma: standard deviation of the shift, above 0.
    """
    return ((shifted - logits) / sigma).square() * 0.5


def one_centered(gradients: Tensor, target: float = 1.0) -> Tensor:
    """(|dD/dx| - target)^2 of each sample (Gulrajani et al. 2017, Eq. 3; Kodali et al. 2017, section 2.3).

    Args:
        gradients: of D's input, `[N, ...]`.
        target: norm to pull towards.
    """
    # The square root of 0 has no gradient; a tiny constant keeps it finite and changes nothing above 1e-6.
    return ((_squared_norm(gradients) + 1e-12).sqrt() - target).square()


def interpolate(reals: Tensor, fakes: Tensor, share: Tensor) -> Tensor:
    """Points on the lines between real and fake samples (Gulrajani et al. 2017, Algorithm 1).

    Args:
        reals: `[N, ...]`.
        fakes: `[N, ...]`.
        share: of the way from real to fake, in [0, 1), `[N]`.
    """
    share = share.view(-1, *[1] * (reals.dim() - 1))
    return torch.lerp(reals, fakes, share)


def batch_deviation(parts: Sequence[Tensor]) -> Tensor:
    """Standard deviation of all numbers of a global batch, the same on all replicas: `[]`; a collective call.

    Args:
        parts: this replica's samples, one tensor per micro-batch.
    """
    wide = [part.detach().double() for part in parts]
    sums = torch.stack([torch.stack((x.sum(), x.square().sum(), x.new_full((), float(x.numel())))) for x in wide])
    total, squares, count = sum_over_replicas([sums.sum(0)])[0]
    return (squares / count - (total / count).square()).clamp_min(0.0).sqrt().to(parts[0].dtype)


def perturb(reals: Tensor, noise: Tensor, share: Tensor, deviation: Tensor) -> Tensor:
    """Points around real samples: x + share * std * noise / 2 (Kodali et al. 2017, section 2.3, their code).

    Args:
        reals: `[N, ...]`.
        noise: uniform in [0, 1), `[N, ...]`.
        share: uniform in [0, 1), `[N]`.
        deviation: of all numbers of the global batch, `[]`.
    """
    share = share.view(-1, *[1] * (reals.dim() - 1))
    return reals + share * 0.5 * deviation * noise


def lecam(real_logits: Tensor, fake_logits: Tensor, real_average: Tensor, fake_average: Tensor) -> Tensor:
    """(D(x) - a_fake)^2 + (D(G(z)) - a_real)^2 of each row: `[N]` (Tseng et al. 2021, Eq. 4).

    Args:
        real_logits: D(x), `[N]`.
        fake_logits: D(G(z)), `[N]`.
        real_average: moving average of D(x), without gradient, `[]`.
        fake_average: moving average of D(G(z)), without gradient, `[]`.
    """
    return (real_logits - fake_average).square() + (fake_logits - real_average).square()


def centering(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """(D(x) + D(G(z)))^2 of each pair of rows: `[N]` (Lin et al. 2025, "Adversarial Flow Models", logit centering).

    Args:
        real_logits: D(x), `[N]`.
        fake_logits: D(G(z)), `[N]`.
    """
    return (real_logits + fake_logits).square()


def drift(real_logits: Tensor) -> Tensor:
    """D(x)^2, which keeps logits from drifting away (Karras et al. 2018, appendix A.1): `[N]`.

    Args:
        real_logits: D(x), `[N]`.
    """
    return real_logits.square()
