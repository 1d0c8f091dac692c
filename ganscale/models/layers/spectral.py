"""Spectral normalization whose power iteration is part of the update, not of the forward pass."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

WARM_UP = 30
NORMALISED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)


class SpectralNorm(nn.Module):
    """W / sigma(W), sigma the largest singular value of W as a matrix, outputs first (Miyato et al. 2018, Eq. 8).

    As the parametrization of a layer's `weight` it estimates sigma = u^T W v with u and v held constant in all forward
    and backward passes; the gradient, of any order, runs through W alone. Only `advance` moves u and v (Algorithm 1,
    step 1), so neither the number of forwards nor that of replicas plays a part.

    Args:
        weight: the initial weight; u and v start from it.
        dim: dimension of the weight that counts outputs.
        eps: least length by which u and v are divided.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, *, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        matrix = self._matrix(weight.detach())
        self.register_buffer("u", normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("v", normalize(torch.randn_like(matrix[0]), dim=0))
        self.advance(weight, WARM_UP)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.transpose(0, self.dim).flatten(1)

    def forward(self, weight: Tensor) -> Tensor:
        """Divide the weight by its largest singular value as u and v see it."""
        with torch.autocast(weight.device.type, enabled=False):
            sigma = torch.dot(self.u, torch.mv(self._matrix(weight), self.v))
            return weight / sigma

    @torch.no_grad()
    def advance(self, weight: Tensor, iterations: int = 1) -> None:
        """Power iteration (Miyato et al. 2018, Algorithm 1, step 1), in place.

        Args:
            weight: of the layer.
            iterations: at least 1.
        """
        with torch.autocast(weight.device.type, enabled=False):
            matrix = self._matrix(weight)
            for _ in range(iterations):
                self.v.copy_(normalize(torch.mv(matrix.t(), self.u), dim=0, eps=self.eps))
                self.u.copy_(normalize(torch.mv(matrix, self.v), dim=0, eps=self.eps))


def add_spectral_norm(network: nn.Module, *, eps: float = 1e-12) -> None:
    """Normalize every linear, convolutional, transposed convolutional and embedding layer, from its present weight on.

    Call it when the weights have their initial values; the trained parameter is `parametrizations.weight.original`.

    Args:
        network: changed in place.
        eps: of `SpectralNorm`.

    Raises:
        ValueError: a weight is zero: it has no direction to keep.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, NORMALISED):
            if not layer.weight.any():
                raise ValueError(f"spectral normalization of {name}: the weight is zero")
            dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
            # Our own module keeps shape and dtype: torch need not try it out.
            parametrize.register_parametrization(
                layer, "weight", SpectralNorm(layer.weight, dim=dim, eps=eps), unsafe=True
            )


def spectral_norms(network: nn.Module) -> tuple[tuple[SpectralNorm, Tensor], ...]:
    """The spectral norms of a network, each with its weight, for `advance_power_iteration`, without frozen ones.

    Args:
        network: with norms from `add_spectral_norm`.
    """
    found = []
    for module in network.modules():
        if isinstance(module, parametrize.ParametrizationList):
            norms = [norm for norm in module if isinstance(norm, SpectralNorm) and module.original.requires_grad]
            found += [(norm, module.original) for norm in norms]
    return tuple(found)


def advance_power_iteration(norms: Iterable[tuple[SpectralNorm, Tensor]]) -> None:
    """One power iteration of each norm with its present weight: once after every optimizer step of the network.

    Without communication: the replicas' weights are equal, and so are their u and v.

    Args:
        norms: from `spectral_norms`.
    """
    for norm, weight in norms:
        norm.advance(weight)
