"""Parts of the baselines: the run's images as a torchvision data set, its networks with torch's layers."""

import copy

from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms

from ganscale.data import ImageSource, StackedSource
from ganscale.models.layers import BatchNorm, uses_batch_statistics
from ganscale.training.build import Experiment


class Pictures(Dataset[tuple[Tensor, int]]):
    """A data set like those of torchvision: bytes in memory, one PIL image per row, ToTensor and Normalize.

    Args:
        source: uint8 images `[N, C, H, W]` with 1 or 3 channels, or digits to stack.
    """

    def __init__(self, source: ImageSource) -> None:
        self.images = source.images.cpu()
        self.labels = source.labels.cpu()
        self.triples = source.triples.cpu() if isinstance(source, StackedSource) else None
        self.size = source.order.size
        channels = source.shape[0]
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.5,) * channels, (0.5,) * channels)]
        )

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image `[C, H, W]` in [-1, 1] and its class."""
        if self.triples is None:
            digits, label = self.images[index, 0].numpy(), int(self.labels[index])
        else:
            digits, label = self.images[self.triples[index], 0].permute(1, 2, 0).numpy(), 0
        image = self.transform(Image.fromarray(digits))
        assert isinstance(image, Tensor), "ToTensor returns a tensor"
        return image, label


def images_of(experiment: Experiment) -> ImageSource:
    """The source of a run whose images are in memory.

    Args:
        experiment: the run.
    """
    source = experiment.sampler.source
    assert isinstance(source, ImageSource), "check() accepts images only"
    return source


def networks(experiment: Experiment, same_layers: bool) -> tuple[nn.Module, nn.Module]:
    """Copies of the run's generator and discriminator.

    Args:
        experiment: the run.
        same_layers: whether to keep ganscale's batch norm instead of torch's.
    """
    pair = copy.deepcopy(experiment.state.generator), copy.deepcopy(experiment.state.discriminator)
    if not same_layers:
        for network in pair:
            _take_torch_layers(network)
    return pair


def uses_batch(network: nn.Module) -> bool:
    """Whether the output of a row depends on other rows.

    Args:
        network: with layers of ganscale or torch.
    """
    return uses_batch_statistics(network) or any(isinstance(m, _TorchBatchNorm) for m in network.modules())


class _TorchBatchNorm(nn.modules.batchnorm._BatchNorm):
    """torch's batch norm for `[N, C]` and `[N, C, H, W]`; BatchNorm1d and BatchNorm2d differ only in this check."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def _take_torch_layers(module: nn.Module) -> None:
    """Replace batch norms below `module`, keeping their weights."""
    for name, child in module.named_children():
        if type(child) is not BatchNorm:
            _take_torch_layers(child)
            continue
        mean, affine = child.running_mean, child.weight is not None
        replacement = _TorchBatchNorm(mean.numel(), eps=child.eps, momentum=child.momentum, affine=affine).to(mean)
        replacement.load_state_dict(child.state_dict(), strict=False)
        setattr(module, name, replacement)
