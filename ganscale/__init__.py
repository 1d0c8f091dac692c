"""ganscale: distributed GAN training with Ray, exact for any number of workers."""

__version__ = "0.1.0"
