"""Work and size of a network: multiply-accumulates (MACs; FLOPs are twice as many), parameters, bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def count_macs(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass over an input of `shape` (with the batch: ``(1, 3, 112, 112)``).

    Convolutions and linear layers are counted, found by running the network once on zeros; normalisation,
    activations and other element-wise work are not, as is the custom of the field.
    """
    total = 0

    def add(layer: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.ConvTranspose2d):
            total += out.numel() // layer.out_channels * layer.weight.numel() // (layer.stride[0] * layer.stride[1])
        elif isinstance(layer, nn.Conv2d):
            total += out.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += out.numel() * layer.in_features

    counted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    hooks = [layer.register_forward_hook(add) for layer in network.modules() if isinstance(layer, counted)]
    training = network.training
    try:
        parameter = next(network.parameters(), torch.empty(0))
        with torch.no_grad():
            network.eval()(torch.zeros(shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return total


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, buffers (running means, counters) left out."""
    return sum(p.numel() for p in network.parameters())
