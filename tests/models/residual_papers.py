"""SAGAN's and BigGAN's networks written out anew from the papers, with the numbers in a state of ours."""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, relu

from ganscale.config import DISCRIMINATORS, GENERATORS, load
from ganscale.models import Geometry
from ganscale.models.resnet import ResidualBlock
from tests.models.nets import assert_same_derivatives, derivatives, latents, num_parameters


class Papers:
    """The networks of Zhang et al. 2019 and of Brock et al. 2019, appendix B."""

    def __init__(self, network: nn.Module) -> None:
        self.of = {**dict(network.named_parameters()), **dict(network.named_buffers())}

    def weight(self, name: str) -> Tensor:
        """W / (u^T W v), W as a matrix of outputs and inputs (Miyato et al. 2018, Eq. 8)."""
        path = f"{name}.parametrizations.weight."
        if f"{path}original" not in self.of:
            return self.of[f"{name}.weight"]
        weight, u, v = (self.of[path + each] for each in ("original", "0.u", "0.v"))
        return weight / (u @ weight.reshape(len(weight), -1) @ v)

    def convolve(self, name: str, x: Tensor) -> Tensor:
        weight = self.weight(name)
        return conv2d(x, weight, self.of.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def attend(self, name: str, x: Tensor) -> Tensor:
        theta = self.convolve(f"{name}.query", x).flatten(2)
        phi, g = (max_pool2d(self.convolve(f"{name}.{each}", x), 2).flatten(2) for each in ("key", "value"))
        beta = torch.einsum("nci,ncj->nij", theta, phi).softmax(2)
        mixed = torch.einsum("nij,ncj->nci", beta, g).view(len(x), -1, *x.shape[2:])
        return x + self.of[f"{name}.gamma"] * self.convolve(f"{name}.out", mixed)

    def normalize(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * scale[..., None, None] + shift[..., None, None]

    def conditional(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """Scales and shifts from rows of tables (SAGAN), or linear in y (BigGAN)."""
        if f"{name}.bias" in self.of:
            return self.normalize(x, self.of[f"{name}.weight"][y], self.of[f"{name}.bias"][y])
        return self.normalize(x, 1.0 + y @ self.weight(f"{name}.scale").T, y @ self.weight(f"{name}.shift").T)

    def generator(self, z: Tensor, labels: Tensor, attention: int) -> Tensor:
        """BigGAN's z has a chunk for the first layer and one for each block, joined with the shared embedding."""
        num_blocks = len({name.split(".")[1] for name in self.of if ".conv1." in name})
        first, conditions = z, [labels] * num_blocks
        if "class_embedding" in self.of:
            first, *chunks = z.tensor_split(num_blocks + 1, 1)
            conditions = [torch.cat((chunk, self.of["class_embedding"][labels]), 1) for chunk in chunks]
        x = (first @ self.weight("project").T + self.of["project.bias"]).view(len(z), -1, 4, 4)
        place = 0
        for y in conditions:
            name = f"layers.{place}"
            before = relu(self.conditional(f"{name}.first.0", x, y))
            inner = relu(self.conditional(f"{name}.second.0", self.convolve(f"{name}.conv1", double(before)), y))
            x = self.convolve(f"{name}.conv2", inner) + self.convolve(f"{name}.shortcut", double(x))
            place += 1
            if x.shape[2] == attention:
                x, place = self.attend(f"layers.{place}", x), place + 1
        x = relu(self.normalize(x, self.of[f"layers.{place}.weight"], self.of[f"layers.{place}.bias"]))
        return self.convolve(f"layers.{place + 2}", x).tanh()

    def discriminator(self, x: Tensor, labels: Tensor, attention: int, halvings: int) -> Tensor:
        place = 0
        while f"layers.{place}.conv1.bias" in self.of:
            name, down = f"layers.{place}", place - (attention != 0 and place > 1) < halvings
            y = self.convolve(f"{name}.conv2", relu(self.convolve(f"{name}.conv1", relu(x) if place else x)))
            if down or y.shape[1] != x.shape[1]:
                x = self.convolve(f"{name}.shortcut", x)
            x = avg_pool2d(x + y, 2) if down else x + y
            place += 1
            if f"layers.{place}.gamma" in self.of:
                x, place = self.attend(f"layers.{place}", x), place + 1
        h = relu(x).sum((2, 3))
        logits = h @ self.weight("head.logit")[0] + self.of["head.logit.bias"]
        return logits + (self.weight("head.embedding")[labels] * h).sum(1)


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def check(pair: tuple[nn.Module, nn.Module], labels: Tensor, *, resolution: int, attention: int, halvings: int) -> None:
    """Both networks are the papers' to second order, with batch statistics."""
    generator, discriminator = map(moved, pair)
    papers_g, papers_d, z = Papers(generator), Papers(discriminator), latents(len(labels))
    expected = derivatives(lambda z: papers_g.generator(z, labels, attention), z, generator.parameters())
    assert_same_derivatives(derivatives(lambda z: generator(z, labels), z, generator.parameters()), expected)
    x = torch.randn(len(labels), 3, resolution, resolution, generator=torch.Generator().manual_seed(0)).double()
    parameters = list(discriminator.parameters())
    expected = derivatives(lambda x: papers_d.discriminator(x, labels, attention, halvings), x, parameters)
    assert_same_derivatives(derivatives(lambda x: discriminator(x, labels), x, parameters), expected)


def count(name: str, ways: tuple[str, ...], resolution: int, latent_dim: int, num_classes: int) -> tuple[int, int]:
    """Parameters of G, with the biases that batch norm takes away again (three of each block), and of D."""
    model = load(overrides=[f"data.resolution={resolution}", f"model.latent_dim={latent_dim}", *ways]).model
    geometry = Geometry((3, resolution, resolution), latent_dim, num_classes)
    generator = GENERATORS[name].make(model.generator, geometry)
    blocks = [module for module in generator.modules() if isinstance(module, ResidualBlock)]
    left_out = sum(3 * block.conv2.out_channels for block in blocks)
    return num_parameters(generator) + left_out, num_parameters(
        DISCRIMINATORS[name].make(model.discriminator, geometry)
    )


def moved(network: nn.Module) -> nn.Module:
    """With numbers at which nothing is zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network
