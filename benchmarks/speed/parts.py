"""What the baselines are made of: the run's images as a torchvision data set, its networks with torch's layers."""

import copy

from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms

from ganscale.data import ImageSource, StackedSource
from ganscale.models.layers import BatchNorm, uses_batch_statistics
from ganscale.training.build import Experiment


class Pictures(Dataset[tuple[Tensor, int]]):
    """A data set as torchvision's are: bytes in memory, a PIL image per row, ToTensor and Normalize on it.

    Args:
        source: images in bytes `[N, C, H, W]` with 1 or 3 channels, or digits to be stacked.
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
        """One image `[C, H, W]` in [-1, 1] and a class."""
        if self.triples is None:
            digits, label = self.images[index, 0].numpy(), int(self.labels[index])
        else:
            digits, label = self.images[self.triples[index], 0].permute(1, 2, 0).numpy(), 0
        image = self.transform(Image.fromarray(digits))
        assert isinstance(image, Tensor), "ToTensor makes one"
        return image, label


def images_of(experiment: Experiment) -> ImageSource:
    """The images that the run has in memory."""
    source = experiment.sampler.source
    assert isinstance(source, ImageSource), "check() lets images through alone"
    return source


def networks(experiment: Experiment, same_layers: bool) -> tuple[nn.Module, nn.Module]:
    """Copies of the run's networks, with torch's batch norm instead of ours unless `same_layers`."""
    pair = copy.deepcopy(experiment.state.generator), copy.deepcopy(experiment.state.discriminator)
    if not same_layers:
        for network in pair:
            _take_torch_layers(network)
    return pair


def looks_at_batch(network: nn.Module) -> bool:
    """Whether a row's output depends on the other rows, in networks with our layers or torch's."""
    return uses_batch_statistics(network) or any(isinstance(m, _TorchBatchNorm) for m in network.modules())


class _TorchBatchNorm(nn.modules.batchnorm._BatchNorm):
    """torch's batch norm for `[N, C]` and `[N, C, H, W]` alike: BatchNorm1d and 2d differ in this check only."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def _take_torch_layers(module: nn.Module) -> None:
    """Replace our layers below `module`, weights and all, but for those that hold more, such as a spectral norm."""
    for name, ours in module.named_children():
        if type(ours) is BatchNorm:
            features, affine = ours.running_mean.numel(), ours.weight is not None
            theirs = _TorchBatchNorm(features, eps=ours.eps, momentum=ours.momentum, affine=affine)
        else:
            _take_torch_layers(ours)
            continue
        theirs.load_state_dict(ours.state_dict(), strict=False)
        device_and_dtype = next(iter(ours.state_dict().values()))
        setattr(module, name, theirs.to(device_and_dtype))
