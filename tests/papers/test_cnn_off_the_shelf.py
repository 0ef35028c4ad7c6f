"""CNN features off-the-shelf: OverFeat's layers and files, features at any layer, views, machines, retrieval."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.errors import (
    CheckpointError,
    HashMismatch,
    OfflineError,
    OptionError,
    ShapeError,
    ValueRangeError,
)
from mien.nn.count import count_macs, count_parameters
from mien.papers import cnn_off_the_shelf as paper
from mien.papers.cnn_off_the_shelf import checkpoint
from mien.papers.cnn_off_the_shelf.network import Variant, normalised
from mien.weights import InputContract

ROOT = Path(__file__).parents[2]

LARGE = {
    "conv1": (0, (96, 3, 7, 7), 14112), "conv2": (14208, (256, 96, 7, 7), 1218432),
    "conv3": (1218688, (512, 256, 3, 3), 2398336), "conv4": (2398848, (512, 512, 3, 3), 4758144),
    "conv5": (4758656, (1024, 512, 3, 3), 9477248), "conv6": (9478272, (1024, 1024, 3, 3), 18915456),
    "fc1": (18916480, (4096, 1024, 5, 5), 123774080), "fc2": (123778176, (4096, 4096), 140555392),
    "out": (140559488, (1000, 4096), 144655488),
}  # fmt: skip
SMALL = {
    "conv1": (0, (96, 3, 11, 11), 34848), "conv2": (34944, (256, 96, 5, 5), 649344),
    "conv3": (649600, (512, 256, 3, 3), 1829248), "conv4": (1829760, (1024, 512, 3, 3), 6548352),
    "conv5": (6549376, (1024, 1024, 3, 3), 15986560), "fc1": (15987584, (3072, 1024, 6, 6), 129233792),
    "fc2": (129236864, (4096, 3072), 141819776), "out": (141823872, (1000, 4096), 145919872),
}  # fmt: skip
"""Offsets of kernel and bias, and the kernel's shape, as the description of the released files has them."""


def on_meta(build: Any, **options: Any) -> paper.OverFeat:
    with torch.device("meta"):
        network: paper.OverFeat = build(**options)
    return network


# --- OverFeat --------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_released_files() -> None:
    assert count_parameters(on_meta(paper.overfeat_large)) == 144_656_488
    assert count_parameters(on_meta(paper.overfeat_small)) == 145_920_872


@pytest.mark.parametrize(
    ("build", "pools", "fc1"),
    [
        (paper.overfeat_large, [(96, 36), (256, 15), (1024, 5)], 4096),
        (paper.overfeat_small, [(96, 28), (256, 12), (1024, 6)], 3072),
    ],
)
def test_maps_have_the_sizes_of_the_table(build: Any, pools: list[tuple[int, int]], fc1: int) -> None:
    network = on_meta(build)
    x = torch.zeros(1, 3, network.size, network.size, device="meta")
    seen = []
    for name, layer in network.named_children():
        x = layer(x)
        if name.startswith("pool"):
            seen.append((x.shape[1], x.shape[2]))
        if name == "fc1":
            assert x.shape[1:] == (fc1, 1, 1)
    assert seen == pools
    assert x.shape == (1, 1000, 1, 1)
    assert not any(isinstance(m, nn.LocalResponseNorm) or getattr(m, "groups", 1) != 1 for m in network.modules())


@pytest.mark.parametrize(("kind", "slots", "numbers"), [("large", LARGE, 144_656_488), ("small", SMALL, 145_920_872)])
def test_the_layout_is_that_of_the_files(kind: str, slots: dict[str, Any], numbers: int) -> None:
    released = paper.RELEASED[kind]
    found = paper.layout(on_meta(lambda: paper.OverFeat(released.variant)))
    assert checkpoint.numbers(found) == numbers
    for name, (weight, shape, bias) in slots.items():
        assert found[f"{name}.weight"] == (weight, shape)
        assert found[f"{name}.bias"] == (bias, shape[:1])
    assert len(found) == 2 * len(slots)
    macs = count_macs(on_meta(lambda: paper.OverFeat(released.variant)), (1, 3, *[released.variant.size] * 2))
    assert macs == released.macs
    build = getattr(paper, released.build)
    assert f"{macs / 1e9:.2f} GMAC" in build.__doc__
    assert f"{macs / 1e6:,.0f}" in (ROOT / "docs" / "papers" / "cnn_off_the_shelf.md").read_text("utf-8")


def test_a_whole_file_is_cut_at_the_right_places(tmp_path: Path) -> None:
    """In the size of the large network: a file with holes, in which only the ends of each tensor are written."""
    file = tmp_path / "net_weight_1"
    flat = np.memmap(file, "<f4", "w+", shape=(144_656_488,))
    for place, (weight, shape, bias) in enumerate(LARGE.values(), 1):
        flat[weight], flat[weight + math.prod(shape) - 1] = place, -place
        flat[bias], flat[bias + shape[0] - 1] = place + 0.5, -place - 0.5
    flat.flush()
    found = paper.read_official(file)
    for place, (name, (_, shape, _)) in enumerate(LARGE.items(), 1):
        assert found[f"{name}.weight"].shape == shape
        assert found[f"{name}.weight"].ravel()[[0, -1]].tolist() == [place, -place]
        assert found[f"{name}.bias"][[0, -1]].tolist() == [place + 0.5, -place - 0.5]


def tiny(file: Path | None = None, seed: int = 0) -> tuple[paper.OverFeat, NDArray[np.float32], dict[str, Any]]:
    """A narrow OverFeat, random numbers for it, and their layout."""
    network = paper.overfeat_large(size=77, width=0.125, hidden=16, classes=5)
    slots = paper.layout(network)
    rng = np.random.default_rng(seed)
    flat = (rng.normal(size=checkpoint.numbers(slots)) * 0.1).astype("<f4")
    if file is not None:
        flat.tofile(file)
    return network, flat, slots


def test_a_file_gives_the_network_that_its_numbers_describe(tmp_path: Path) -> None:
    network, flat, slots = tiny(tmp_path / "net")
    state = checkpoint.arranged(paper.read_official(tmp_path / "net", slots=slots), slots)
    network.load_state_dict(state, strict=True)
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 3, 77, 77))).float()
    y = (x - 118.380948) / 61.896913
    torch.testing.assert_close(normalised(x), y)
    at = 0

    def take(*shape: int) -> Tensor:
        nonlocal at
        part = torch.from_numpy(flat[at : at + math.prod(shape)].copy()).reshape(shape)
        at += math.prod(shape)
        return part

    z = F.relu(F.conv2d(y, take(12, 3, 7, 7), take(12), stride=2))
    z = F.max_pool2d(z, 3, 3)
    z = F.max_pool2d(F.relu(F.conv2d(z, take(32, 12, 7, 7), take(32))), 2, 2)
    for channels, before in ((64, 32), (64, 64), (128, 64), (128, 128)):
        z = F.relu(F.conv2d(z, take(channels, before, 3, 3), take(channels), padding=1))
    z = F.max_pool2d(z, 3, 3)
    assert z.shape[2:] == (1, 1)
    first = F.relu(F.linear(z.flatten(1), take(16, 128, 1, 1).flatten(1), take(16)))
    second = F.relu(F.linear(first, take(16, 16), take(16)))
    logits = F.linear(second, take(5, 16), take(5))
    assert at == len(flat)
    torch.testing.assert_close(network(y), logits, atol=1e-4, rtol=1e-4)
    source = paper.of_module(network, InputContract(size=77), name="tiny")
    assert (source.layer, source.rectify) == ("fc1", True)
    found = paper.features(source, y, ["fc1", "fc2"], rectify=True)
    torch.testing.assert_close(found["fc1"], first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["fc2"], second, atol=1e-4, rtol=1e-4)
    raw = paper.features(source, y, ["fc1", "fc1_relu"])
    assert (raw["fc1"] < 0).any()
    torch.testing.assert_close(raw["fc1_relu"], first, atol=1e-4, rtol=1e-4)


def test_a_larger_picture_gives_a_map_of_answers() -> None:
    network = paper.overfeat_large(size=77, width=0.0625, hidden=8, classes=3).eval()
    x = torch.randn(1, 3, 113, 113)
    dense = network.dense(x)
    assert dense.shape == (1, 3, 2, 2)
    with pytest.raises(ShapeError, match="dense"):
        network(x)
    part = x[:, :, 18:95, 18:95]
    torch.testing.assert_close(network.dense(part)[:, :, 0, 0], network(part))
    with pytest.raises(OptionError, match="nothing is left"):
        paper.overfeat_small(size=40)


def test_the_reader_and_the_converter_are_strict(tmp_path: Path) -> None:
    _, flat, slots = tiny()
    (tmp_path / "short").write_bytes(flat[:-1].tobytes())
    with pytest.raises(CheckpointError, match="not as long"):
        paper.read_official(tmp_path / "short")
    with pytest.raises(CheckpointError, match="not as long"):
        paper.read_official(tmp_path / "short", slots=slots)
    with pytest.raises(CheckpointError, match="cannot be read"):
        paper.read_official(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="another length"):
        paper.split(flat[1:], slots)
    good = paper.split(flat, slots)
    with pytest.raises(CheckpointError, match=r"1 missing \(fc2.bias\)"):
        checkpoint.arranged({k: v for k, v in good.items() if k != "fc2.bias"}, slots)
    with pytest.raises(CheckpointError, match=r"1 unknown \(conv7.weight\)"):
        checkpoint.arranged({**good, "conv7.weight": flat[:3]}, slots)
    with pytest.raises(CheckpointError, match=r"of another shape \(conv1.bias"):
        checkpoint.arranged({**good, "conv1.bias": flat[:3]}, slots)
    with pytest.raises(CheckpointError, match="not those of OverFeat"):
        paper.convert_official(good)  # neither of the two released sizes


def test_an_imported_file_is_declared_and_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mien.weights as declared

    narrow = Variant(77, tuple(s._replace(channels=s.channels // 16) for s in paper.LARGE.stages), (16, 16))
    released = paper.RELEASED["large"]._replace(variant=narrow)
    monkeypatch.setattr(checkpoint, "RELEASED", {"large": released})
    monkeypatch.setattr(checkpoint, "LARGE", narrow)
    monkeypatch.setattr(paper, "overfeat_large", lambda: paper.OverFeat(narrow))
    network = paper.OverFeat(narrow)
    slots = paper.layout(network)
    flat = np.random.default_rng(0).normal(size=checkpoint.numbers(slots)).astype("<f4")
    flat.tofile(tmp_path / "net_weight_1")
    made = paper.import_official(tmp_path / "net_weight_1", tmp_path / "of.safetensors", name="tiny-overfeat")
    assert (made.task, made.paper, made.permissive) == ("features", "cnn_off_the_shelf", False)
    assert made.input.size == 77
    with declared.registered(made):
        source = paper.backbone("tiny-overfeat")
        assert source.layer == "fc1"
        assert torch.equal(
            source.network.state_dict()["fc2.bias"], torch.from_numpy(flat[slots["fc2.bias"].offset :][:16])
        )
    with pytest.raises(OptionError, match="safetensors"):
        paper.import_official(tmp_path / "net_weight_1", tmp_path / "of.pt")


# --- Networks and layers ---------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """One ReLU that runs twice, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.second(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def twice() -> paper.Backbone:
    torch.manual_seed(0)
    return paper.of_module(Twice(), InputContract(size=16), name="twice")


def test_layers_are_listed_in_the_order_in_which_they_run() -> None:
    assert [(one.name, one.shape) for one in paper.layers(twice())] == [
        ("first", (4, 16, 16)), ("relu", (4, 16, 16)), ("second", (6, 7, 7)), ("relu_1", (6, 7, 7)), ("head", (2,)),
        ("output", (2,)),
    ]  # fmt: skip


def test_features_are_caught_before_the_next_layer_spoils_them() -> None:
    source = twice()
    network = source.network
    assert isinstance(network, Twice)
    x = torch.randn(3, 3, 16, 16)
    first = F.conv2d(x, network.first.weight, network.first.bias, padding=1)
    second = F.conv2d(first.relu(), network.second.weight, network.second.bias, stride=2)
    names = ["first", "relu", "second", "relu_1", "head:in", "output"]
    found = paper.features(source, x, names, pool="flatten")
    assert (first < 0).any()
    for name, want in zip(
        names, (first, first.relu(), second, second.relu(), second.relu().mean((2, 3))), strict=False
    ):
        torch.testing.assert_close(found[name], want.flatten(1))
    assert found["output"].shape == (3, 2)
    mean = paper.features(source, x, ["second"], rectify=True)["second"]
    torch.testing.assert_close(mean, second.relu().mean((2, 3)))
    grid = paper.features(source, x, ["first"], pool="grid")["first"]
    torch.testing.assert_close(grid, F.adaptive_avg_pool2d(first, 3).flatten(1))
    assert not network.first._forward_hooks
    assert not network.relu._forward_hooks


def test_a_pass_ends_at_the_last_layer_that_is_wanted() -> None:
    source = twice()
    network = source.network
    assert isinstance(network, Twice)
    network.head.register_forward_hook(lambda *_: pytest.fail("the head need not run"))
    paper.features(source, torch.randn(1, 3, 16, 16), ["first", "relu_1"])


def test_tokens_and_maps_with_channels_last() -> None:
    tokens, maps = torch.randn(2, 5, 7), torch.randn(2, 4, 4, 6)
    torch.testing.assert_close(paper.pooled(tokens), tokens.mean(1))
    torch.testing.assert_close(paper.pooled(tokens, "first"), tokens[:, 0])
    torch.testing.assert_close(paper.pooled(maps, "max"), maps.amax((1, 2)))
    with pytest.raises(OptionError, match="unknown pooling"):
        paper.pooled(tokens, "median")


@pytest.mark.parametrize(
    ("name", "layer", "rectify", "dim"),
    [
        ("torchvision:alexnet", "classifier.1", True, 4096),
        ("timm:resnet18", "fc:in", False, 512),
        ("timm:vit_tiny_patch16_224", "head:in", False, 192),
        ("mien.nn.embedder:embedder_small?dim=32", "output", False, 32),
        ("mien-embedder", "output", False, 128),
    ],
)
def test_any_network_has_a_layer_to_begin_with(name: str, layer: str, rectify: bool, dim: int) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    source = paper.backbone(name, random=":" in name)
    assert (source.layer, source.rectify) == (layer, rectify)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 60, 50, 3), dtype=np.uint8)
    recipe = paper.recipe_of(source)
    x = recipe.features(source, pictures)
    assert x.shape == (2, 1, dim)
    np.testing.assert_allclose(np.linalg.norm(x, axis=2), 1, atol=1e-5)
    if rectify:
        assert x.min() == 0


def test_features_of_weights_are_the_embedding() -> None:
    from mien.weights import load

    source = paper.backbone("mien-embedder")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    with torch.inference_mode():
        want = load("mien-embedder", device="cpu")(source.input.tensor(pictures)).numpy()
    np.testing.assert_allclose(paper.described(source, pictures, ["output"])["output"][:, 0], want, atol=2e-4)


def test_nothing_is_downloaded_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="say where the numbers"):
        paper.backbone("torchvision:alexnet")
    with pytest.raises(OptionError, match="say where the numbers"):
        paper.backbone("torchvision:alexnet", random=True, pretrained=True)
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    with pytest.raises(OfflineError):
        paper.backbone("torchvision:alexnet", pretrained=True)
    with pytest.raises(OptionError, match="did you mean 'alexnet'"):
        paper.backbone("torchvision:alexnett", random=True)
    with pytest.raises(OptionError, match="no such library"):
        paper.backbone("os:system", random=True)
    with pytest.raises(OptionError, match="no such builder"):
        paper.backbone("mien.nn.embedder:embedder_huge", random=True)
    with pytest.raises(OptionError, match="does not take these arguments"):
        paper.backbone("mien.nn.embedder:embedder_small?height=3", random=True)
    with pytest.raises(OptionError, match="bring their own"):
        paper.backbone("mien-embedder", weights=str(tmp_path))
    with pytest.raises(OptionError, match="did you mean 'head'"):
        paper.resolved(twice(), "heat")


def test_a_file_of_the_user_fills_the_network(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.manual_seed(3)
    network = squeezenet1_1(num_classes=4)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    name = "torchvision:squeezenet1_1?num_classes=4"
    source = paper.backbone(name, weights=str(tmp_path / "own.pth"))
    assert source.fingerprint() == paper.of_module(network, InputContract(size=224)).fingerprint()
    assert source.fingerprint() != paper.backbone(name, random=True).fingerprint()
    with pytest.raises(CheckpointError, match="do not fit"):
        paper.backbone("torchvision:squeezenet1_1", weights=str(tmp_path / "own.pth"))
    with pytest.raises(CheckpointError, match="no such file"):
        paper.backbone(name, weights=str(tmp_path / "other.pth"))


# --- Views -----------------------------------------------------------------------------------------------------------


def test_the_sixteen_representations() -> None:
    views = paper.paper_views()
    assert len(views) == len(set(views)) == 16
    assert sum(view.mirror for view in views) == 8
    crops = [view for view in views if view.side < 1 and not view.mirror]
    assert len(crops) == 5
    assert all(view.side**2 == pytest.approx(4 / 9) for view in crops)
    images = torch.rand(3, 3, 36, 36) * 255
    seen = paper.represent(images, views, 24)
    assert seen.shape == (16, 3, 3, 24, 24)
    for at, (y, x) in enumerate(itertools.product((0, 12), (0, 12)), 1):
        torch.testing.assert_close(seen[at], images[:, :, y : y + 24, x : x + 24])
    torch.testing.assert_close(seen[5], images[:, :, 6:30, 6:30])
    torch.testing.assert_close(seen[8:], seen[:8].flip(4))
    torch.testing.assert_close(seen[0], F.interpolate(images, (24, 24), mode="bilinear", antialias=True))


@pytest.mark.parametrize("angle", [90.0, -90.0, 180.0])
def test_a_turn_is_clockwise_about_the_middle(angle: float) -> None:
    images = torch.rand(1, 3, 20, 20)
    (turned,) = paper.represent(images, [paper.View(angle=angle)], 20)
    torch.testing.assert_close(turned, torch.rot90(images, int(-angle // 90), (2, 3)), atol=1e-5, rtol=1e-5)


def test_a_turn_keeps_right_angles_in_pictures_that_are_no_squares() -> None:
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(80.0), indexing="ij")
    disc = ((x - 39.5) ** 2 + (y - 19.5) ** 2 < 15**2).float().expand(1, 3, 40, 80)
    from mien.papers.cnn_off_the_shelf.views import _rotated

    assert float((_rotated(disc, 30.0) - disc).abs().mean()) < 0.02  # an edge of half a pixel


def test_a_view_that_reaches_beyond_sees_the_edge_repeated() -> None:
    images = torch.full((2, 3, 10, 10), 7.0)
    seen = paper.represent(images, [paper.View(-0.25, -0.25, 1.5)], 12)
    torch.testing.assert_close(seen, torch.full((1, 2, 3, 12, 12), 7.0))
    assert len(paper.gentle_views()) == 10
    assert len(paper.gentle_views(mirror=False)) == 5


@given(st.integers(1, 6))
def test_patches_cover_the_picture_and_overlap(levels: int) -> None:
    patches = paper.patches(levels)
    assert len(patches) == sum(i * i for i in range(1, levels + 1))
    for level in range(1, levels + 1):
        mine = [p for p in patches if p.side == 2 / (level + 1)]
        assert len(mine) == level**2
        edges = sorted({p.x for p in mine})
        assert edges[0] == 0
        assert edges[-1] + mine[0].side == pytest.approx(1)
        assert all(b < a + mine[0].side for a, b in itertools.pairwise(edges))
    assert len(paper.patches(4)) == 30
    assert len(paper.patches(3)) == 14


# --- Features and machines -------------------------------------------------------------------------------------------


def test_power_and_length() -> None:
    x = np.array([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(paper.unit(x), [[0.6, -0.8, 0.0], [0.0, 0.0, 0.0]], atol=1e-7)
    np.testing.assert_allclose(paper.signed_power(x), [[9, -16, 0], [0, 0, 0]])
    np.testing.assert_allclose(paper.transformed(x, power=2, again=False)[0], [0.36, -0.64, 0], atol=1e-7)
    long = np.hypot(0.36, 0.64)
    np.testing.assert_allclose(paper.transformed(x, power=2)[0], [0.36 / long, -0.64 / long, 0], atol=1e-6)
    np.testing.assert_allclose(paper.signed_power(x, 0.5)[0], [3**0.5, -2, 0], atol=1e-6)


def clouds(n: int = 90, d: int = 6, classes: int = 3, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return paper.unit(rng.normal(size=(classes, d))[labels] + 0.9 * rng.normal(size=(n, d))), labels


def primal(x: NDArray[Any], y: NDArray[Any], c: float, *, squared: bool, penalised: bool) -> tuple[NDArray[Any], float]:
    """The minimum of the primal, in float64 by L-BFGS on a smoothed hinge that becomes ever sharper."""
    from scipy.optimize import minimize

    start = np.zeros(x.shape[1] + 1)
    for sharp in (1.0,) if squared else (10.0, 100.0, 1000.0):

        def loss(wb: NDArray[Any], sharp: float = sharp) -> tuple[float, NDArray[Any]]:
            gap = 1 - y * (x @ wb[:-1] + wb[-1])
            if squared:
                value, slope = np.maximum(gap, 0) ** 2, 2 * np.maximum(gap, 0)
            else:
                value = np.logaddexp(0, sharp * gap) / sharp
                slope = np.exp(-np.logaddexp(0, -sharp * gap))
            own = wb.copy()
            own[-1] *= penalised
            return 0.5 * own @ own + c * value.sum(), own - c * np.append((slope * y) @ x, (slope * y).sum())

        start = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-12}).x
    return start[:-1], float(start[-1])


@pytest.mark.parametrize("solver", ["libsvm", "liblinear", "primal"])
def test_the_machine_minimises_the_formula(solver: Any) -> None:
    x, labels = clouds(classes=2)
    y = np.where(labels == 1, 1.0, -1.0)
    fit = paper.fit_attributes(x, (labels == 1)[:, None], cs=(0.7,), solver=solver)
    squared, penalised = solver == "primal", solver != "libsvm"
    w, b = primal(x.astype(np.float64), y, 0.7, squared=squared, penalised=penalised)

    def objective(w: NDArray[Any], b: float) -> float:
        hinge = np.maximum(1 - y * (x @ w + b), 0)
        return float(0.5 * w @ w + 0.5 * penalised * b * b + 0.7 * (hinge**2 if squared else hinge).sum())

    best, mine = objective(w, b), objective(fit.classifier.weights[0].astype(np.float64), float(fit.classifier.bias[0]))
    assert mine == pytest.approx(best, rel=2e-3)
    np.testing.assert_allclose(fit.classifier.weights[0], w, atol=0.05)


def test_one_against_one_is_libsvm_s(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.svm import SVC

    x, labels = clouds(classes=4, n=120)
    fit = paper.fit_classes(x, labels, cs=(2.0,), solver="libsvm")
    assert fit.classifier.weights.shape == (6, 6)
    theirs = SVC(kernel="linear", C=2.0).fit(x, labels)
    new, _ = clouds(classes=4, n=200, seed=0)
    np.testing.assert_allclose(fit.classifier.weights, theirs.coef_, atol=0.02)
    assert (fit.classifier.predict(new) == theirs.predict(new)).mean() > 0.97  # ties are broken otherwise


def test_votes_count_pairs_and_ties_go_to_the_surer() -> None:
    responses = np.array([[1.0, 0.2, 3.0], [1.0, -2.0, 0.5]], np.float32)  # pairs (0, 1), (0, 2), (1, 2)
    found = paper.votes(responses, 3)
    assert found[0].round().tolist() == [2, 1, 0]
    assert np.floor(found[1] + 0.5).tolist() == [1, 1, 1]
    assert int(found[1].argmax()) == 2
    assert np.abs(found - found.round()).max() < 0.5


def test_responses_of_representations_are_summed() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 16, 7)).astype(np.float32)
    machine = paper.LinearClassifier(
        rng.normal(size=(3, 7)).astype(np.float32),
        rng.normal(size=3).astype(np.float32),
        ("a", "b", "c"),
        "one-against-all",
    )
    naive = np.zeros((5, 3))
    for i, r, k in itertools.product(range(5), range(16), range(3)):
        naive[i, k] += float(machine.weights[k] @ x[i, r]) + float(machine.bias[k])
    np.testing.assert_allclose(machine.scores(x), naive, atol=1e-4)
    with pytest.raises(ShapeError):
        machine.responses(x[..., :3])
    with pytest.raises(ShapeError):
        paper.LinearClassifier(machine.weights, machine.bias[:2], ("a", "b", "c"), "one-against-all")


def test_representations_are_samples_of_one_picture() -> None:
    x, labels = clouds(classes=2, n=30)
    many = np.stack([x, x], 1)  # each picture twice: as C twice as large
    one = paper.fit_attributes(x, (labels == 1)[:, None], cs=(1.0,), solver="primal")
    two = paper.fit_attributes(many, (labels == 1)[:, None], cs=(0.5,), solver="primal")
    np.testing.assert_allclose(one.classifier.weights, two.classifier.weights, atol=1e-3)


def test_folds_keep_pictures_and_people_together() -> None:
    people = np.repeat(np.arange(12), 5)
    seen = np.zeros(60, int)
    for held in paper.fold_rows(60, 4, groups=people, seed=3):
        seen[held] += 1
        assert not set(people[held]) & set(np.delete(people, held))
    assert (seen == 1).all()
    assert not np.array_equal(paper.fold_rows(20, 4, seed=0)[0], paper.fold_rows(20, 4, seed=1)[0])
    with pytest.raises(OptionError, match="too few"):
        paper.fold_rows(60, 13, groups=people)


def test_c_is_the_one_that_generalises() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 200))
    truth = (x[:, 0] > 0) ^ (rng.random(80) < 0.25)
    fit = paper.fit_attributes(paper.unit(x), truth[:, None], cs=(1e-3, 1.0, 1e3), folds=4)
    assert fit.tried.keys() == {1e-3, 1.0, 1e3}
    assert fit.tried[fit.c] == max(fit.tried.values())
    assert paper.fit_attributes(paper.unit(x), truth[:, None], cs=(5.0,)).tried == {}


def test_labels_that_nobody_knows_have_no_say() -> None:
    x, labels = clouds(classes=2, n=60)
    truth = np.stack([labels == 1, labels == 0], 1)
    known = np.ones_like(truth)
    known[::3, 1] = False
    fit = paper.fit_attributes(x, truth, known=known, cs=(1.0,))
    wrong = truth.copy()
    wrong[::3, 1] ^= True
    again = paper.fit_attributes(x, wrong, known=known, cs=(1.0,))
    np.testing.assert_array_equal(fit.classifier.weights, again.classifier.weights)
    with pytest.raises(ValueRangeError, match="the label b is the same"):
        paper.fit_attributes(x, np.stack([labels == 1, labels >= 0], 1), names=["a", "b"])
    with pytest.raises(ValueRangeError, match="every class needs"):
        paper.fit_classes(x, labels, names=["a", "b", "c"])


def naive_ap(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Every threshold by itself."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        above = scores >= threshold
        recall = (above & truth).sum() / truth.sum()
        total += (recall - before) * (above & truth).sum() / above.sum()
        before = recall
    return float(total)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=25))
def test_average_precision(rows: list[tuple[int, bool]]) -> None:
    scores, truth = np.array([float(s) for s, _ in rows]), np.array([t for _, t in rows])
    if not truth.any():
        assert math.isnan(paper.average_precision(scores, truth))
        return
    from sklearn.metrics import average_precision_score

    found = paper.average_precision(scores, truth)
    assert found == pytest.approx(naive_ap(scores, truth))
    assert found == pytest.approx(average_precision_score(truth, scores))
    best = []
    for level in np.linspace(0, 1, 11):
        values = []
        for threshold in set(scores.tolist()):
            above = scores >= threshold
            if (above & truth).sum() / truth.sum() >= level - 1e-12:
                values.append((above & truth).sum() / above.sum())
        best.append(max(values, default=0.0))
    assert paper.average_precision(scores, truth, points=11) == pytest.approx(np.mean(best))


def test_mean_class_accuracy_is_the_mean_of_the_diagonal() -> None:
    truth, guess = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 0, 1])
    assert paper.mean_class_accuracy(guess, truth) == pytest.approx((0.75 + 0.5) / 2)


# --- Retrieval -------------------------------------------------------------------------------------------------------


def test_whitening_is_scikit_learn_s() -> None:
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    reference = rng.normal(size=(60, 4, 12)) @ rng.normal(size=(12, 12))
    space = paper.fit_space(reference, dim=5)
    rows = paper.unit(reference.reshape(-1, 12))
    theirs = PCA(5, whiten=True, svd_solver="full").fit(rows.astype(np.float64))
    new = rng.normal(size=(7, 12))
    want = paper.unit(theirs.transform(paper.unit(new).astype(np.float64)))
    mine = space(new)
    np.testing.assert_allclose(np.abs(mine), want**2, atol=2e-3)  # axes may point either way
    assert space(reference).shape == (60, 4, 5)
    with pytest.raises(ValueRangeError, match="too few features"):
        paper.fit_space(rows[:5], dim=5)
    with pytest.raises(ValueRangeError, match="fewer axes"):
        paper.fit_space(rows[:, :2] @ rng.normal(size=(2, 12)), dim=5)


def test_distances_are_means_of_least_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.papers.cnn_off_the_shelf import retrieval

    rng = np.random.default_rng(0)
    query, reference = rng.normal(size=(4, 3, 8)), rng.normal(size=(9, 5, 8))
    naive = np.zeros((4, 9))
    for q, n in itertools.product(range(4), range(9)):
        naive[q, n] = np.mean([min(np.linalg.norm(a - b) for b in reference[n]) for a in query[q]])
    monkeypatch.setattr(retrieval, "BLOCK", 4 * 3 * 5 * 2)  # two images at a time
    np.testing.assert_allclose(paper.distances(query, reference), naive, atol=1e-4)
    with pytest.raises(ShapeError):
        paper.distances(query, reference[..., :5])


def test_retrieval_s_figures() -> None:
    gaps = np.array([[0.0, 1.0, 2.0, 3.0], [3.0, 0.0, 1.0, 2.0]])
    relevant = np.array([[True, False, True, True], [False, True, True, False]])
    # Ranks of the first: 1, 3, 4; of the second: 1, 2. Precision before and at each of them is averaged.
    first = np.mean([(1 + 1) / 2, (1 / 2 + 2 / 3) / 2, (2 / 3 + 3 / 4) / 2])
    assert paper.mean_average_precision(gaps, relevant) == pytest.approx((first + 1) / 2)
    plain = np.mean([1, 2 / 3, 3 / 4])
    assert paper.mean_average_precision(gaps, relevant, trapezoid=False) == pytest.approx((plain + 1) / 2)
    itself = np.array([[True, False, False, False], [False, True, False, False]])
    without = np.mean([(0 + 1 / 2) / 2, (1 / 2 + 2 / 3) / 2])
    assert paper.mean_average_precision(gaps, relevant, ignored=itself) == pytest.approx((without + 1) / 2)
    assert paper.recall_at(gaps, relevant, 2) == pytest.approx((1 / 2 + 1) / 2)
    with pytest.raises(ValueRangeError, match="no relevant"):
        paper.mean_average_precision(gaps, relevant & ~relevant)
    truth, own = paper.all_pairs_truth(["a", "b", "a"])
    assert truth.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert own.diagonal().all()


def test_spatial_search_finds_what_is_somewhere_in_the_picture() -> None:
    """A coloured square that moves about: patches find it where whole pictures do not."""
    rng = np.random.default_rng(0)
    colours = np.array([[30 + 225 * (k >> bit & 1) for bit in range(3)] for k in range(1, 7)])
    grounds = rng.integers(0, 200, (24, 1, 1, 3))
    pictures = np.broadcast_to(grounds, (24, 48, 48, 3)).astype(np.uint8)
    labels = np.repeat(np.arange(6), 4)
    for picture, label in zip(pictures, labels, strict=True):
        y, x = rng.integers(0, 24, 2)
        picture[y : y + 24, x : x + 24] = colours[label]

    class Colours(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.adaptive_avg_pool2d(x + 1, 1).flatten(1)

    source = paper.of_module(Colours(), InputContract(size=24), name="colours")
    relevant, own = paper.all_pairs_truth(labels)
    values = []
    for query, reference in ((1, 1), (3, 4)):
        x = paper.described(source, pictures, ["output"], views=paper.patches(query))["output"]
        y = paper.described(source, pictures, ["output"], views=paper.patches(reference))["output"]
        values.append(
            paper.mean_average_precision(paper.distances(paper.unit(x), paper.unit(y)), relevant, ignored=own)
        )
    assert values[1] > values[0] + 0.1


# --- Probes ----------------------------------------------------------------------------------------------------------


def striped(n: int = 60, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pictures with a bright or dark left half, and with or without red."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 2)) < 0.5
    pictures = rng.integers(80, 120, (n, 24, 20, 3))
    pictures[truth[:, 0], :, :10] += 90
    pictures[truth[:, 1], :, :, 0] += 60
    return pictures.astype(np.uint8), truth


def test_a_probe_goes_through_its_file(tmp_path: Path) -> None:
    source = twice()
    pictures, truth = striped()
    recipe = paper.recipe_of(source, layer="relu", pool="grid", views=paper.paper_views(), power=2)
    probe = paper.train_probe(source, pictures, truth, recipe, names=["left", "red"], cs=(1.0, 10.0), folds=3)
    new, new_truth = striped(seed=1)
    scores = probe.scores(source, new)
    assert paper.average_precision(scores[:, 1], new_truth[:, 1]) > 0.95
    probe.save(tmp_path / "probe.safetensors")
    again = paper.load_probe(tmp_path / "probe.safetensors")
    assert again.recipe == recipe
    assert (again.classifier.names, again.classifier.rule, again.c) == (("left", "red"), "one-against-all", probe.c)
    np.testing.assert_array_equal(again.scores(source, new), scores)
    torch.manual_seed(9)
    with pytest.raises(HashMismatch, match="not the one"):
        again.scores(paper.of_module(Twice(), InputContract(size=16), name="twice"), new)
    (tmp_path / "broken.safetensors").write_bytes((tmp_path / "probe.safetensors").read_bytes()[:100])
    for name in ("broken", "absent"):
        with pytest.raises(CheckpointError, match="holds no probe"):
            paper.load_probe(tmp_path / f"{name}.safetensors")
    with pytest.raises(OptionError, match="safetensors"):
        probe.save(tmp_path / "probe.npz")


def test_the_curve_of_layers_says_where_something_can_be_read() -> None:
    class Forgetful(nn.Module):
        """Colours in the first layer, only their mean in the second."""

        def __init__(self) -> None:
            super().__init__()
            self.keep, self.drop = nn.Conv2d(3, 3, 1), nn.Dropout()
            self.forget = nn.Conv2d(3, 2, 1)
            with torch.no_grad():
                self.keep.weight[:] = torch.eye(3)[:, :, None, None]
                self.forget.weight[:] = 1 / 3

        def forward(self, x: Tensor) -> Tensor:
            return self.forget(self.drop(self.keep(x))).mean((2, 3))  # type: ignore[no-any-return]

    rng = np.random.default_rng(0)
    red = rng.random(80) < 0.5
    pictures = np.full((80, 16, 16, 3), 100) + rng.integers(-20, 20, (80, 1, 1, 1))
    pictures[red, ..., 0] += 40
    pictures[red, ..., 1] -= 40
    source = paper.of_module(Forgetful(), InputContract(size=16), name="forgetful")
    points = paper.layer_curve(
        source,
        pictures.astype(np.uint8),
        red[:, None],
        test=np.arange(80) >= 40,
        names=["red"],
        cs=(1.0, 100.0),
        folds=2,
    )
    assert [p.layer for p in points] == ["keep", "forget"]  # dropout and the whole give the same again
    assert points[0].mean > 0.99
    assert points[1].mean < 0.8
    assert points[0].figures == {"red": points[0].mean}
    with pytest.raises(OptionError, match="train on"):
        paper.layer_curve(source, pictures.astype(np.uint8), red[:, None], test=np.ones(80, bool))


def test_classes_have_shares_that_are_right() -> None:
    x, labels = clouds(n=150)
    fit = paper.fitted(x[:90], labels[:90], names=["a", "b", "c"], cs=(1.0,))
    each = paper.figures(fit.classifier, x[90:], labels[90:])
    guess = fit.classifier.predict(x[90:])
    for code, name in enumerate("abc"):
        mine = labels[90:] == code
        assert each[name] == pytest.approx((guess[mine] == code).mean())
    assert paper.mean_figure(fit.classifier, x[90:], labels[90:]) == pytest.approx(np.mean(list(each.values())))
