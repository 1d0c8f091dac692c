"""Path length regularization of G: steps in w should move the image equally far, whatever w and the direction."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ganscale.models.layers import upcast
from ganscale.parallel.collectives import sum_over_replicas

DECAY = 0.01
"""Weight of a batch's mean length in the moving mean (Karras et al. 2020, their code)."""
SHRINK = 2
"""Every so many images take part."""


class GeneratorModule(nn.Module):
    """G, and the lengths of its Jacobian: the module that DDP wraps.

    Args:
        generator: the network.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, labels: Tensor | None, random: tuple[Any, ...], y: Tensor | None = None) -> Any:
        """Images of `z`; with `y`, the length of each row, and 0 that reaches every parameter.

        Args:
            z: latents `[N, latent_dim]`.
            labels: int64 `[N]`, or None.
            random: what else the generator draws: nothing, or its `random_inputs`.
            y: standard normal numbers like the images.
        """
        if y is None:
            return self.generator(z, labels, *random)
        if random:
            generator: Any = self.generator
            styles = generator.styles(z, labels, *random)
            images = generator.layers(styles, random[0].noise)
        else:
            styles = z.detach().requires_grad_(True)
            images = self.generator(styles, labels)
        return path_lengths(images, styles, y), 0.0 * images.sum()


def path_lengths(images: Tensor, styles: Tensor, y: Tensor) -> Tensor:
    """|J^T y| of each row, J the Jacobian of an image by its styles, y divided by the root of its number of pixels.

    With one w per layer it is the root mean square over layers (Karras et al. 2020, Eq. 4 and their code): `[N]`.

    Args:
        images: made from `styles`, `[N, C, ...]`.
        styles: `[N, layers, w_dim]`, or z `[N, latent_dim]`.
        y: standard normal numbers like the images.
    """
    pixels = math.prod(images.shape[2:])
    (gradients,) = torch.autograd.grad((images * y).sum() * pixels**-0.5, styles, create_graph=True)
    squares = upcast(gradients).square().sum(-1)
    return ((squares if squares.dim() == 1 else squares.mean(1)) + 1e-12).sqrt()


def taking_part(position: int, batch_size: int) -> slice:
    """The rows of a share that take part: every second one of the global batch, on any replica.

    Args:
        position: global index of the share's first row.
        batch_size: rows of the global batch.
    """
    return slice(-(position % batch_size) % SHRINK, None, SHRINK)


def num_taking_part(batch_size: int) -> int:
    """Rows of the global batch that take part.

    Args:
        batch_size: all of them.
    """
    return -(-batch_size // SHRINK)


@torch.no_grad()
def advance(mean: Tensor, lengths: Tensor, batch_size: int) -> None:
    """Move the mean length towards that of the newest global batch; a collective call.

    Args:
        mean: `[]`, changed in place.
        lengths: sum over this replica's rows, `[]`.
        batch_size: rows of the global batch.
    """
    (total,) = sum_over_replicas([lengths])
    mean.lerp_((total / num_taking_part(batch_size)).to(mean.dtype), DECAY)
