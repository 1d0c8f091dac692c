"""The loop of Lightning with manual optimization; needs `lightning` (extra `bench`)."""

import logging
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Adam
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.speed.measure import Contender
from benchmarks.speed.parts import images_of, networks
from ganscale.config import ConfigError
from ganscale.data import ImageSource
from ganscale.training.build import DTYPES, Experiment
from ganscale.training.schedules import Schedule


class Lightning(Contender):
    """Lightning's GAN example with the same losses: toggled optimizers, manual backward, default Adam.

    Whole batches of normalized images come from memory, so that no data loader is measured. Logging, checkpoints and
    progress bar are off. One `fit` runs in a thread and serves all blocks; it waits between them, so that no block
    includes its setup.

    Args:
        experiment: the run to compare with.
        same_layers: whether to keep ganscale's batch norm.

    Raises:
        ConfigError: lightning is not installed.
    """

    name = "lightning"

    def __init__(self, experiment: Experiment, same_layers: bool = False) -> None:
        super().__init__(experiment)
        try:
            import lightning  # pyright: ignore[reportMissingImports]
        except ImportError:
            problem, remedy = "lightning is not installed", "pip install 'ganscale[bench]', or leave it out"
            raise ConfigError(problem, key="--baselines", value="lightning", remedy=remedy) from None
        for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.generator, self.discriminator = networks(experiment, same_layers)
        self._stream = _Stream(experiment)
        module = _module(lightning, experiment, (self.generator, self.discriminator))
        trainer = lightning.Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        self._thread = threading.Thread(target=self._fit, args=(trainer, module), daemon=True)

    def _fit(self, trainer: Any, module: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about a loader without workers
                trainer.fit(module, DataLoader(self._stream, batch_size=None))
        except BaseException as error:
            self._stream.failure = error
            self._stream.idle.set()

    def run(self, iterations: int) -> None:
        """As `Contender.run`; the first call does one iteration less, as Lightning prefetches a batch."""
        stream = self._stream
        stream.idle.clear()
        for _ in range(iterations):
            stream.permits.release()
        if not self._thread.is_alive():
            self._thread.start()
        stream.idle.wait()
        if stream.failure is not None:
            raise stream.failure


class _Stream(IterableDataset[Tensor]):
    """Normalized batches, reshuffled in each epoch, limited by permits.

    Attributes:
        permits: one per batch that may be read.
        idle: set while a reader waits for a permit.
        failure: the error that ended the reading thread.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._source: ImageSource = images_of(experiment)
        self._batch = experiment.config.train.batch_size
        self.permits = threading.Semaphore(0)
        self.idle = threading.Event()
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            order = torch.randperm(self._source.order.size)
            for rows in order[: len(order) // self._batch * self._batch].split(self._batch):
                if not self.permits.acquire(blocking=False):
                    self.idle.set()
                    self.permits.acquire()
                yield self._source.gather(rows)[0]


def _module(lightning: Any, experiment: Experiment, pair: tuple[nn.Module, nn.Module]) -> Any:
    """A LightningModule; the class is defined here because lightning is optional."""
    config = experiment.config
    smoothing, latent_dim = config.loss.label_smoothing, config.model.latent_dim
    dtype, start = DTYPES[config.train.precision], Schedule(config).controls(0)

    class Gan(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.discriminator = pair

        def configure_optimizers(self) -> list[Adam]:
            eps = config.optim.eps
            return [
                Adam(self.generator.parameters(), lr=start.lr_g, betas=start.betas_g, eps=eps),
                Adam(self.discriminator.parameters(), lr=start.lr_d, betas=start.betas_d, eps=eps),
            ]

        def training_step(self, reals: Tensor) -> None:
            optimizer_g, optimizer_d = self.optimizers()
            z = torch.randn(len(reals), latent_dim, device=reals.device, dtype=dtype)
            self.toggle_optimizer(optimizer_d)
            real_logits, fake_logits = self.discriminator(reals), self.discriminator(self.generator(z).detach())
            loss_d = softplus(-real_logits).mean() + softplus(fake_logits).mean()
            if smoothing:
                loss_d = loss_d + smoothing * real_logits.mean()
            optimizer_d.zero_grad()
            self.manual_backward(loss_d)
            optimizer_d.step()
            self.untoggle_optimizer(optimizer_d)
            self.toggle_optimizer(optimizer_g)
            loss_g = softplus(-self.discriminator(self.generator(z))).mean()
            optimizer_g.zero_grad()
            self.manual_backward(loss_g)
            optimizer_g.step()
            self.untoggle_optimizer(optimizer_g)

    return Gan()
