"""The spread of a batch as a feature, against mode collapse."""

import torch
from torch import Tensor, nn

from ganscale.models.layers.precision import upcast
from ganscale.parallel.collectives import all_reduce_sum, num_replicas


class MinibatchStddev(nn.Module):
    """Append one channel with the mean standard deviation of the batch (Karras et al. 2018, section 3).

    The deviation of each feature over the rows of *all* replicas, averaged over features, is the same number for each
    row and pixel. Karras et al. group rows by fours; here the group is the global micro-batch, which no number of
    replicas changes. Two all-reduces of C*H*W numbers; differentiable twice. In eval mode only this replica's own rows
    count.

    Args:
        eps: added to the variance.
    """

    batch_dependent = True

    def __init__(self, *, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Turn `[N, C, ...]` into `[N, C + 1, ...]`."""
        wide = upcast(x)
        everywhere = self.training and num_replicas() > 1
        rows = wide.new_full((1,), float(x.shape[0]))
        # Around the mean, which carries no gradient here, the sums lose no digits where the rows hardly differ.
        total = torch.cat((wide.detach().sum(0).flatten(), rows))
        total = all_reduce_sum(total) if everywhere else total
        rows = total[-1]
        around = wide - (total[:-1] / rows).view(x.shape[1:])
        sums = torch.cat((around.sum(0).flatten(), around.square().sum(0).flatten()))
        sums = all_reduce_sum(sums) if everywhere else sums
        offset, square = (sums / rows).chunk(2)
        deviation = (square - offset.square() + self.eps).sqrt().mean()
        return torch.cat((x, deviation.to(x.dtype).expand(x.shape[0], 1, *x.shape[2:])), dim=1)
