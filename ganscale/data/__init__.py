"""Real examples, addressed by their global position in the run's endless stream of images."""

import torch

from ganscale.config import DATASETS, Config
from ganscale.config.table import find, resolve
from ganscale.data.folder import FolderSource
from ganscale.data.gaussians import PointSource
from ganscale.data.images import ImageSource, StackedSource
from ganscale.data.source import Source

__all__ = ["FolderSource", "ImageSource", "PointSource", "Source", "StackedSource", "open_source"]


def open_source(config: Config, device: torch.device, dtype: torch.dtype) -> Source:
    """The real examples that a run trains on.

    Args:
        config: the run.
        device: where batches go.
        dtype: of the examples.

    Raises:
        ConfigError: the data set is unknown.
        FileNotFoundError, ValueError: `data.path` does not hold what it should.
    """
    return resolve(find(DATASETS, config.data.name, key="data.name").source)(config, device, dtype)
