"""What all three bundled networks promise: size, work, shapes, gradients, batches, and weights that come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mien.nn.count import count_macs, count_parameters
from mien.nn.detector import detector_base
from mien.nn.embedder import embedder_base, embedder_small
from mien.nn.inputs import to_input
from mien.nn.landmarks import landmarks_base
from mien.train.checkpoint import save_weights

BASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "detector": (detector_base, (3, 96, 128), (192 + 48 + 12, 15)),
    "embedder": (embedder_base, (3, 112, 112), (128,)),
    "landmarks": (landmarks_base, (3, 112, 112), (70, 3)),
}
"""Builder, shape of one input, shape of its output."""

ALL = pytest.mark.parametrize("name", sorted(BASES))


def settled(name: str) -> nn.Module:
    """The network with running statistics of some inputs, in eval mode: not the trivial ones of a new network."""
    torch.manual_seed(1)
    build, shape, _ = BASES[name]
    network = build().train()
    for layer in network.modules():  # every block counts, and not the identity alone
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.0)
    for _ in range(3):
        network(torch.randn(4, *shape))
    return network.eval()


@pytest.mark.parametrize(
    ("build", "shape", "gmac"),
    [
        (detector_base, (1, 3, 480, 640), 0.6),
        (embedder_base, (1, 3, 112, 112), 0.45),
        (landmarks_base, (1, 3, 112, 112), 0.15),
    ],
)
def test_the_work_is_within_its_bound(build: Callable[[], nn.Module], shape: tuple[int, ...], gmac: float) -> None:
    assert 0.02 < count_macs(build(), shape) / 1e9 <= gmac


def test_the_docstrings_tell_the_embedders_size_and_work() -> None:
    for build in (embedder_base, embedder_small):
        network, told = build(), build.__doc__ or ""
        assert f"{count_macs(network, (1, 3, 112, 112)) / 1e9:.2f} GMAC" in told
        assert f"{count_parameters(network) / 1e6:.1f} M parameters" in told


@ALL
def test_files_are_small(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.safetensors"
    save_weights(path, BASES[name][0](), half=True)
    limit = {"detector": 4e6, "embedder": 8e6, "landmarks": 8e6}[name]
    assert path.stat().st_size <= limit


@ALL
def test_shapes_and_gradients_of_every_parameter(name: str) -> None:
    build, shape, answer = BASES[name]
    torch.manual_seed(0)
    network = build().train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)  # residual branches that start at nought would hide their first half
    out = network(torch.randn(2, *shape))
    assert out.shape == (2, *answer)
    assert out.dtype == torch.float32
    (out * torch.randn_like(out)).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@ALL
def test_a_batch_of_one_equals_a_batch_of_many(name: str) -> None:
    network = settled(name)
    images = torch.randn(5, *BASES[name][1])
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(images[k : k + 1]) for k in range(5)])
        empty = network(images[:0])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1])
    assert empty.shape == (0, *BASES[name][2])


@ALL
def test_memory_format_changes_nothing(name: str) -> None:
    network = settled(name)
    images = torch.randn(2, *BASES[name][1])
    with torch.no_grad():
        plain = network(images)
        turned = network.to(memory_format=torch.channels_last)(  # type: ignore[call-overload]
            images.contiguous(memory_format=torch.channels_last)
        )
    torch.testing.assert_close(turned, plain, rtol=1e-4, atol=1e-4)


@ALL
def test_weights_written_and_read_give_the_same_answers(tmp_path: Path, name: str) -> None:
    network, path = settled(name), tmp_path / "w.safetensors"
    images = torch.randn(2, *BASES[name][1])
    save_weights(path, network)
    torch.manual_seed(99)
    other = BASES[name][0]().eval()
    missing, unexpected = other.load_state_dict(load_file(path), strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    with torch.no_grad():
        assert torch.equal(other(images), network(images))


@ALL
def test_builders_are_a_function_of_the_seed(name: str) -> None:
    states: list[dict[str, Tensor]] = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(BASES[name][0]().state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items())


def test_an_untrained_landmark_network_answers_about_the_mean_face() -> None:
    points = landmarks_base().eval()(torch.zeros(1, 3, 112, 112))[0].detach()
    assert (points[:68, :2] > 0).all()
    assert (points[:68, :2] < 112).all()
    assert points[36:42, 0].mean() < points[42:48, 0].mean()  # image-left eye first
    assert points[48:60, 1].mean() > points[36:48, 1].mean()  # y goes down
    assert points[30, 2] < points[0, 2]  # the nose is nearer than the ear


def test_inputs_are_centred_pixels_in_channels_last_memory() -> None:
    images = torch.randint(0, 256, (2, 4, 6, 3), dtype=torch.uint8)
    made = to_input(images)
    assert made.shape == (2, 3, 4, 6)
    assert made.dtype == torch.float32
    assert made.is_contiguous(memory_format=torch.channels_last)
    for k, y, x, c in ((0, 0, 0, 0), (1, 3, 5, 2), (0, 2, 4, 1)):
        assert float(made[k, c, y, x]) == (int(images[k, y, x, c]) - 127.5) / 128
    ends = to_input(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1).expand(1, 1, 2, 3))
    assert ends[0, 0, 0].tolist() == [-0.99609375, 0.99609375]
