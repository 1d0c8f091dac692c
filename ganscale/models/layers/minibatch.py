"""The spread of a batch as a feature, against mode collapse."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ganscale.models.layers.precision import upcast
from ganscale.parallel.collectives import all_reduce_sum, num_replicas


class MinibatchStddev(nn.Module):
    """Append one channel with the mean standard deviation of the batch (Karras et al. 2018, section 3).

    The deviation of each feature over the rows of *all* replicas, averaged over features, is the same number for each
    row and pixel. Two all-reduces of C*H*W numbers; differentiable twice. In eval mode only this replica's own rows
    count.

    With a `group_size`, as Karras et al. have it, a row gets the deviation of its own group. Of N rows of the global
    micro-batch, row i belongs to group i mod M of M = N // group_size (at least 1), whatever replica it is on; a group
    may have more rows than `group_size` where that does not divide N. The all-reduces are M times as large.

    Args:
        group_size: rows in a group; 0 for one group of all rows.
        eps: added to the variance.

    Attributes:
        place: of this replica's rows in the global micro-batch: number of the first, and number of all; None where
            there are no other rows. `place_rows` sets it.
    """

    batch_dependent = True

    def __init__(self, group_size: int = 0, *, eps: float = 1e-8) -> None:
        super().__init__()
        self.group_size = group_size
        self.eps = eps
        self.place: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Turn `[N, C, ...]` into `[N, C + 1, ...]`."""
        wide = upcast(x)
        everywhere = self.training and num_replicas() > 1
        if self.group_size:
            deviation = self._by_group(wide.flatten(1), everywhere).view(-1, *[1] * (x.dim() - 1))
            return torch.cat((x, deviation.to(x.dtype).expand(x.shape[0], 1, *x.shape[2:])), dim=1)
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

    def _by_group(self, x: Tensor, everywhere: bool) -> Tensor:
        """The deviation of each row's group: `[N, F]` to `[N]`."""
        assert self.place or not everywhere, "with several replicas the rows of D must be placed (`place_rows`)"
        first, rows = self.place if self.place and self.training else (0, x.shape[0])
        groups = max(1, rows // self.group_size)
        group = (first + torch.arange(x.shape[0], device=x.device)) % groups
        sizes = ((rows - 1 - torch.arange(groups, device=x.device)) // groups + 1)[:, None]

        def mean(values: Tensor) -> Tensor:
            sums = values.new_zeros(groups, values.shape[1]).index_add(0, group, values)
            return (all_reduce_sum(sums) if everywhere else sums) / sizes

        around = x - mean(x.detach()).index_select(0, group)
        offset, square = mean(torch.cat((around, around.square()), dim=1)).chunk(2, dim=1)
        return (square - offset.square() + self.eps).sqrt().mean(1).index_select(0, group)


def place_rows(layers: Iterable[MinibatchStddev], place: tuple[int, int] | None) -> None:
    """Tell layers which rows of the global micro-batch they are about to see.

    Args:
        layers: of D.
        place: as `MinibatchStddev.place`.
    """
    for layer in layers:
        layer.place = place
