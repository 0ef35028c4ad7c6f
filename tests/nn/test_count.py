"""Counting work and size, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mien.nn.blocks import ResidualBlock, ResidualTrunk, conv_bn_act
from mien.nn.count import count_macs, count_parameters


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "parameters"),
    [
        # 16 x 16 outputs of 8 channels, each 3 x 3 x 4 products.
        (nn.Conv2d(4, 8, 3, padding=1), (1, 4, 16, 16), 16 * 16 * 8 * 9 * 4, 8 * 4 * 9 + 8),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), (1, 4, 16, 16), 8 * 8 * 8 * 9 * 4, 8 * 4 * 9 + 8),
        # Depthwise: every output sees one channel.
        (nn.Conv2d(8, 8, 7, groups=8, bias=False), (1, 8, 7, 7), 8 * 49, 8 * 49),
        (nn.Conv2d(8, 4, 1, groups=2, bias=False), (2, 8, 5, 5), 2 * 25 * 4 * 4, 4 * 4),
        # Every one of the 8 x 8 inputs is multiplied with the 2 x 2 kernel into 3 channels.
        (nn.ConvTranspose2d(5, 3, 2, stride=2, bias=False), (1, 5, 8, 8), 8 * 8 * 5 * 3 * 4, 5 * 3 * 4),
        (nn.Linear(10, 7), (3, 10), 3 * 70, 77),
        (nn.BatchNorm2d(6), (1, 6, 4, 4), 0, 12),
        (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), (1, 3), 15 + 10, 20 + 12),
    ],
)
def test_layers_count_as_by_hand(layer: nn.Module, shape: tuple[int, ...], macs: int, parameters: int) -> None:
    assert count_macs(layer, shape) == macs
    assert count_parameters(layer) == parameters


def test_a_layer_used_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.layer(self.layer(x)))

    assert count_macs(Twice(), (1, 4)) == 32


def test_counting_leaves_the_network_as_it_was() -> None:
    network = conv_bn_act(3, 4).train()
    network[1].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    count_macs(network, (1, 3, 8, 8))
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not network[0]._forward_hooks


def test_counting_puts_the_mode_back_when_the_forward_pass_fails() -> None:
    network = conv_bn_act(3, 4).train()
    with pytest.raises(RuntimeError):
        count_macs(network, (1, 5, 8, 8))
    assert network.training
    assert not network[0]._forward_hooks


def test_a_residual_block_starts_as_the_identity() -> None:
    x = torch.rand(2, 8, 6, 6)
    assert torch.equal(ResidualBlock(8)(x), x)
    block = ResidualBlock(8).eval()
    nn.init.ones_(block.conv2[1].weight)  # type: ignore[arg-type]
    conv1, norm1, _ = block.conv1
    conv2, norm2 = block.conv2
    expected = torch.relu(x + norm2(conv2(torch.relu(norm1(conv1(x))))))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_trunk_halves_at_every_stage_but_the_first(stages: int) -> None:
    trunk = ResidualTrunk((8, 12, 16)[:stages], (1, 2, 1)[:stages]).eval()
    assert trunk(torch.zeros(1, 3, 64, 96)).shape == (
        1,
        (8, 12, 16)[stages - 1],
        16 >> (stages - 1),
        24 >> (stages - 1),
    )
    blocks = sum(isinstance(layer, ResidualBlock) for layer in trunk)
    assert blocks == (1, 3, 4)[stages - 1]
    with pytest.raises(ValueError, match="zip"):
        ResidualTrunk((8, 12), (1,))
