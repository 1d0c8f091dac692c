"""Real examples, addressed by their global position in the run's endless stream of images."""

from ganscale.data.folder import FolderSource
from ganscale.data.gaussians import PointSource
from ganscale.data.images import ImageSource, StackedSource
from ganscale.data.source import Source

__all__ = ["FolderSource", "ImageSource", "PointSource", "Source", "StackedSource"]
