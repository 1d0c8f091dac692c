"""The usual data-parallel GAN loop, to compare with.

As in most repositories: one DDP wrapper per network, `torch.manual_seed(seed + rank)`, a DistributedSampler's shard per
rank, the global batch divided by the number of ranks, and torch's batch norm over each rank's own rows. Networks,
initial weights, loss and rates are those of the run that it is compared with.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import softplus
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from benchmarks.speed.parts import images_of, networks
from ganscale.config import Config
from ganscale.training.build import build


def batches(images: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Normalized batches of this rank's shard, epoch after epoch.

    Args:
        images: uint8, `[N, C, H, W]`.
        batch_size: of this rank.
        seed: of the order.
    """
    data = TensorDataset(images)
    sampler = DistributedSampler(data, seed=seed)
    loader = DataLoader(data, batch_size=batch_size, sampler=sampler, drop_last=True)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        for (batch,) in loader:
            yield batch.float().div_(127.5).sub_(1.0)
        epoch += 1


def curve(config: Config) -> list[list[float]]:
    """Train on all ranks of the process group; `[images, D's loss]` per `log.every` images, means over all ranks.

    Args:
        config: of a run with the non-saturating loss, without penalty and label smoothing.
    """
    rank, ranks, seed = dist.get_rank(), dist.get_world_size(), config.run.seed
    experiment = build(config, device="cpu")
    generator, discriminator = networks(experiment, same_layers=False)
    torch.manual_seed(seed + rank)
    ddp_g, ddp_d = DistributedDataParallel(generator), DistributedDataParallel(discriminator)
    betas = config.optim.betas_g
    optimizer_g = Adam(ddp_g.parameters(), lr=config.optim.lr_g, betas=betas)  # pyright: ignore[reportArgumentType]
    optimizer_d = Adam(ddp_d.parameters(), lr=config.optim.lr_d, betas=betas)  # pyright: ignore[reportArgumentType]
    own, latent_dim = config.train.batch_size // ranks, config.model.latent_dim
    reals = batches(images_of(experiment).images, own, seed)
    found: list[list[float]] = []
    losses: list[Tensor] = []
    for images in range(own * ranks, config.train.images + 1, own * ranks):
        real, fake = next(reals), ddp_g(torch.randn(own, latent_dim))
        optimizer_d.zero_grad()
        loss_d = softplus(-ddp_d(real)).mean() + softplus(ddp_d(fake.detach())).mean()
        loss_d.backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        softplus(-ddp_d(ddp_g(torch.randn(own, latent_dim)))).mean().backward()
        optimizer_g.step()
        losses.append(loss_d.detach())
        if images // config.log.every > (images - own * ranks) // config.log.every:
            mean = torch.stack(losses).mean() / ranks
            dist.all_reduce(mean)
            found.append([images, mean.item()])
            losses.clear()
    return found
