"""The least work that an iteration's loss needs, from the networks' own layers.

Let f be a layer's FLOPs in one forward pass of one row. All layers here are products of an input and a weight (linear
layers, convolutions, fixed filters), so the gradient of the input costs f and that of the weight f as well. By hand one
would compute, per row:

- **forward**: f of each layer.
- **backward of a loss**: f for each weight, and f for each layer's input if a parameter lies before it: the first
  layer's input is data.
- **G update**: forward and input gradients of all of D's layers, the first too, as they lead on to G; no gradients of
  D's weights. Then G's weights and inputs, but for its first layer's. G's forward is that of the last D update if the
  fakes are reused. A loss that compares (`relativistic_*`) needs D's new logits of the reals: one forward.
- **R1, R2** (rows that the loss sees anyway): dD/dx costs f for each layer's input, the first too. Its own backward
  costs f for each weight and f for each layer's tangent, but for the last layer's, where dD/d(logit) = 1 is constant.
  What goes on into the forward pass joins the loss's backward, which is there anyway.
- **GP, DRAGAN** (rows of their own): a forward, then as R1. The part that goes on into the forward pass is there only
  below the last layer that is curved (a smooth activation, a norm, minibatch stddev; the second derivative of relu and
  leaky relu is 0): f for each weight and input gradient there.

This is the least of reverse-mode differentiation of any network. Where everything in D is piecewise linear one could
save more: there the loss's backward of a row is a multiple of dD/dx, so that R1 would cost no second chain.
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
"""Of the pass that finds the layers: more than 2, at which batch norm would have no gradient."""

LAYERS: tuple[Callable[..., Tensor], ...] = (nn.functional.linear, torch.conv2d, torch.conv_transpose2d)
UNKNOWN: tuple[Callable[..., Tensor], ...] = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.einsum)


@dataclass
class Layer:
    """One product of an input and a weight.

    Attributes:
        flops: of the forward pass of one row.
        trained: whether its weight wants a gradient.
        inner: whether a parameter lies before it.
        curved: whether a gradient penalty's own gradient reaches its output through the forward pass.
    """

    flops: int
    trained: bool
    inner: bool
    curved: bool = False


class _Trace(TorchFunctionMode):
    """Notes all layers of a forward pass and their outputs, in order."""

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
        return out.clone()  # activations overwrite their input


def layers_of(network: nn.Module, *inputs: Tensor | None) -> list[Layer] | None:
    """The layers that a forward pass runs through, in order; None if some product is not of that kind (attention).

    Args:
        network: of whose copy in float64 the pass is made.
        inputs: examples or latents `[4, ...]`, and labels.
    """
    network = copy.deepcopy(network).double().train().requires_grad_(True)
    with _Trace() as trace:
        network(*inputs)
    return trace.layers if trace.known else None


def discriminator_layers(network: nn.Module, x: Tensor, labels: Tensor | None) -> list[Layer] | None:
    """The same for D, with `curved` found out: by the penalty's gradient, which is exactly 0 or missing elsewhere."""
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
    """FLOPs per row; `forward` if G's forward pass is not shared with the D update."""
    flops = sum(layer.flops * (forward + layer.trained + layer.inner) for layer in g)
    return flops + sum(layer.flops * (2 + compares) for layer in d)


def discriminator_update(d: list[Layer], due: PenaltyWeights) -> int:
    """FLOPs per row of reals, with the fakes of the same number."""
    plain = sum(layer.flops * (1 + layer.trained + layer.inner) for layer in d)
    slope = sum(layer.flops * (2 + layer.trained) for layer in d) - d[-1].flops
    own_rows = slope + sum(layer.flops * (1 + layer.curved * (layer.trained + layer.inner)) for layer in d)
    return 2 * plain + (bool(due.r1) + bool(due.r2)) * slope + (bool(due.gp) + bool(due.dragan)) * own_rows


def least_flops(experiment: Experiment, *, iterations: int = 1) -> int | None:
    """The least FLOPs of this replica's first iterations, or None where the rules above do not reach.

    They do not reach networks with attention, a discriminator that classifies (AC-GAN), and feature matching.
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
    """Gradient bytes that must cross the wire per iteration: each network's once per optimizer step."""
    sizes = [
        sum(p.numel() * p.element_size() for p in side.parameters) for side in (experiment.step.g, experiment.step.d)
    ]
    return sizes[0] + experiment.sampler.d_steps * sizes[1]
