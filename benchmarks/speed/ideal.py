"""The minimal number of operations of an iteration, derived from the layers of the networks.

Let f be the FLOPs of a layer in the forward pass of one row. All layers here are products of an input and a weight
(linear layers, convolutions, fixed filters), so the gradients of the input and of the weight cost f each. The minimum
per row is:

- **forward**: f of each layer.
- **backward of a loss**: f for each weight, and f for each layer's input if it depends on a parameter; the input of
  the first layer is data.
- **G update**: forward pass and input gradients of all layers of D, including the first; no gradients of D's weights.
  Then the gradients of G's weights and inputs, except the input of the first layer. G's forward pass is that of the
  last D update if the fakes are reused. A relativistic loss needs new logits of the reals: one forward pass of D.
- **R1, R2** (rows of the loss): dD/dx costs f for each layer's input, including the first. Its backward pass costs f
  for each weight and f for each layer's tangent, except that of the last layer, where dD/d(logit) = 1 is constant.
  Its gradients with respect to the forward pass are added to the backward pass of the loss.
- **GP, DRAGAN** (additional rows): a forward pass, then as R1. Gradients with respect to the forward pass exist only
  below the last nonlinear layer with a second derivative (a smooth activation, a norm, minibatch stddev; not relu or
  leaky relu): f for each weight and input gradient there.

This is the minimum of reverse-mode differentiation of an arbitrary network. If D is piecewise linear, the loss's
backward pass of a row is a multiple of dD/dx, and R1 could be cheaper.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ganscale.training.build import Experiment
from ganscale.training.schedules import PenaltyWeights

ROWS = 4
"""Rows of the pass that finds the layers; batch norm has no gradient with 2."""

LAYERS: tuple[Callable[..., Tensor], ...] = (nn.functional.linear, torch.conv2d, torch.conv_transpose2d)
UNKNOWN: tuple[Callable[..., Tensor], ...] = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.einsum)


@dataclass
class Layer:
    """One product of an input and a weight.

    Attributes:
        flops: of the forward pass of one row.
        trained: whether its weight needs a gradient.
        inner: whether its input depends on a parameter.
        curved: whether the gradient of a gradient penalty reaches its output through the forward pass.
    """

    flops: int
    trained: bool
    inner: bool
    curved: bool = False


class _Trace(TorchFunctionMode):
    """Records the layers of a forward pass and their outputs, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.outputs: list[Tensor] = []
        self.known = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in UNKNOWN:
            self.known = False
        if func not in LAYERS:
            return out
        x, weight = args[:2]
        pixels = (x if func is torch.conv_transpose2d else out)[0, 0].numel() if x.dim() == 4 else 1
        self.layers.append(Layer(2 * pixels * weight.numel(), weight.requires_grad, x.requires_grad))
        self.outputs.append(out)
        return out.clone()  # in-place activations overwrite their input


def layers_of(network: nn.Module, *inputs: Tensor | None) -> list[Layer] | None:
    """The layers of a forward pass, in order; None if it has other products, as attention does.

    Args:
        network: to trace; the pass uses a float64 copy.
        inputs: examples or latents `[ROWS, ...]`, and labels.
    """
    network = copy.deepcopy(network).double().train().requires_grad_(True)
    with _Trace() as trace:
        network(*inputs)
    return trace.layers if trace.known else None


def discriminator_layers(network: nn.Module, x: Tensor, labels: Tensor | None) -> list[Layer] | None:
    """As `layers_of`, with `curved` set where the gradient of a gradient penalty exists and is not exactly 0.

    Args:
        network: the discriminator.
        x: examples `[ROWS, ...]`.
        labels: int64 `[ROWS]`, or None.
    """
    layers = layers_of(network, x, labels)
    if layers is None:
        return None
    network = copy.deepcopy(network).double().train().requires_grad_(True)
    x = x.detach().clone().requires_grad_(True)
    with _Trace() as trace:
        logits = network(x, labels)
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    reached = torch.autograd.grad(slope.square().sum(), trace.outputs, allow_unused=True)
    for layer, gradient in zip(layers, reached, strict=True):
        layer.curved = gradient is not None and bool(gradient.count_nonzero())
    return layers


def generator_update(g: list[Layer], d: list[Layer], *, forward: bool, compares: bool) -> int:
    """FLOPs per row of a G update.

    Args:
        g: layers of G.
        d: layers of D.
        forward: whether G's forward pass is not shared with the D update.
        compares: whether the loss compares real and fake logits.
    """
    flops = sum(layer.flops * (forward + layer.trained + layer.inner) for layer in g)
    return flops + sum(layer.flops * (2 + compares) for layer in d)


def discriminator_update(d: list[Layer], due: PenaltyWeights) -> int:
    """FLOPs per pair of a real and a fake row of a D update.

    Args:
        d: layers of D.
        due: weights of the penalties in this update.
    """
    plain = sum(layer.flops * (1 + layer.trained + layer.inner) for layer in d)
    slope = sum(layer.flops * (2 + layer.trained) for layer in d) - d[-1].flops
    own_rows = slope + sum(layer.flops * (1 + layer.curved * (layer.trained + layer.inner)) for layer in d)
    return 2 * plain + (bool(due.r1) + bool(due.r2)) * slope + (bool(due.gp) + bool(due.dragan)) * own_rows


def least_flops(experiment: Experiment, *, iterations: int = 1) -> int | None:
    """The minimal FLOPs of this replica's first iterations, or None if the rules above do not apply.

    They do not apply to networks with attention, a discriminator that classifies (AC-GAN), and feature matching.

    Args:
        experiment: the run at image 0.
        iterations: number of iterations.
    """
    config, sampler, step = experiment.config, experiment.sampler, experiment.step
    state = experiment.state
    if config.loss.feature_matching or getattr(state.discriminator, "classifies", False):
        return None
    packing = config.model.packing
    shape = (packing * sampler.source.shape[0], *sampler.source.shape[1:])
    device = experiment.device
    labels = torch.zeros(ROWS, dtype=torch.int64, device=device) if sampler.conditional else None
    generator = torch.Generator(device).manual_seed(0)
    examples, z = (
        torch.randn(ROWS, *size, dtype=torch.float64, device=device, generator=generator)
        for size in (shape, (sampler.latent_dim,))
    )
    g, d = layers_of(state.generator, z, labels), discriminator_layers(state.discriminator, examples, labels)
    if g is None or d is None:
        return None
    shared = sampler.reuse_fakes and config.train.accumulation == 1
    forward_g = sum(layer.flops for layer in g)
    rows = sum(stop - start for start, stop in sampler.rows)
    total = 0
    for iteration in range(iterations):
        for update in range(sampler.d_steps):
            images = iteration * sampler.images_per_iteration + update * sampler.batch_size
            total += rows // packing * discriminator_update(d, experiment.schedule.penalties(images)) + rows * forward_g
        compares = step.objective_g.loss.compares
        total += rows * generator_update(g, [], forward=not shared, compares=compares)
        total += rows // packing * generator_update([], d, forward=False, compares=compares)
    return total


def least_bytes(experiment: Experiment) -> int:
    """Gradient bytes to reduce per iteration: those of each network once per optimizer step.

    Args:
        experiment: the run.
    """
    sizes = [
        sum(p.numel() * p.element_size() for p in side.parameters) for side in (experiment.step.g, experiment.step.d)
    ]
    return sizes[0] + experiment.sampler.d_steps * sizes[1]
