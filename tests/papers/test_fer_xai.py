"""The audit of expression classifiers, derived again: regression, thresholds, warps, overlaps; Keras's files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mien.errors import CheckpointError, MissingExtra, OptionError, ShapeError
from mien.faces import EXPRESSIONS
from mien.nn import expression as nets
from mien.nn import keras
from mien.papers import fer_xai as paper
from mien.papers.fer_xai import canvas, compare, lime
from mien.papers.fer_xai.masks import corner

# --- Networks --------------------------------------------------------------------------------------------------------


def meta(name: str) -> nets.Classifier:
    with torch.device("meta"):
        return nets.CLASSIFIERS[name]()


NOTOP = {
    "vgg16": 14_714_688, "vgg19": 20_024_384, "resnet50": 23_587_712, "resnet101v2": 42_626_560,
    "inceptionv3": 21_802_784, "xception": 20_861_480, "mobilenetv3": 2_996_352, "efficientnetv2b0": 5_919_312,
}  # fmt: skip
"""Parameters of Keras's networks without a top, moving statistics counted."""
PRINTED = {
    "alexnet": 88.7e6, "weinet": 1.7e6, "songnet": 172.7e3, "silnet": 184.9e6, "vgg16": 14.7e6, "vgg19": 20e6,
    "resnet50": 23.6e6, "resnet101v2": 42.6e6, "inceptionv3": 21.8e6, "xception": 20.9e6, "mobilenetv3": 3e6,
    "efficientnetv2b0": 5.9e6,
}  # fmt: skip
"""As the authors list them."""


@pytest.mark.parametrize("name", nets.CLASSIFIERS)
def test_networks_have_as_many_numbers_as_keras_counts(name: str) -> None:
    network = meta(name)
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    whole = sum(value.numel() for value in state.values())
    if name in NOTOP:
        assert whole - sum(value.numel() for value in network.top.state_dict().values()) == NOTOP[name]
    assert abs(whole / PRINTED[name] - 1) < 0.02


@pytest.mark.parametrize(("size", "kernel", "stride"), list(itertools.product((7, 8, 9), (1, 2, 3, 5), (1, 2, 3))))
def test_same_is_the_border_of_tensorflow(size: int, kernel: int, stride: int) -> None:
    x = torch.arange(size * size, dtype=torch.float64).reshape(1, 1, size, size) + 1
    out = -(-size // stride)
    whole = max((out - 1) * stride + kernel - size, 0)
    before = whole // 2
    naive = torch.full((out, out), -torch.inf, dtype=torch.float64)
    for i, j in itertools.product(range(out), repeat=2):
        for a, b in itertools.product(range(kernel), repeat=2):
            y, z = i * stride + a - before, j * stride + b - before
            if 0 <= y < size and 0 <= z < size:
                naive[i, j] = max(naive[i, j], x[0, 0, y, z])
    assert torch.equal(nets.max_pool(x, kernel, stride)[0, 0], naive)
    layer = nets.Conv(1, 1, kernel, stride, name="c", bias=False)
    nn.init.ones_(layer.weight)
    padded = F.pad(x.float(), (before, whole - before, before, whole - before))
    assert torch.allclose(layer(x.float()), F.conv2d(padded, layer.weight, stride=stride))


def test_a_border_in_pixels_is_of_zeros() -> None:
    x = -torch.ones(1, 1, 4, 4)
    assert nets.max_pool(x, 3, 2, padding=1).amax() == 0
    assert nets.max_pool(x, 3, 2).amax() == -1


def test_the_published_preparation_is_pixels_through_255_and_then_what_the_network_does_itself() -> None:
    pixels = np.array([0.0, 100.0, 255.0])
    for name, one in nets.PREPARED_AS_PUBLISHED.items():
        given = pixels / 255
        if name == "mobilenetv3":
            given = given / 127.5 - 1
        for channel in range(3):
            want = given
            if name == "efficientnetv2b0":
                want = (given / 255 - (0.485, 0.456, 0.406)[channel]) / (0.229, 0.224, 0.225)[channel]
            assert (pixels - one.mean[channel]) / one.std[channel] == pytest.approx(want, abs=1e-9)
        assert one.colour == "RGB"


# --- Keras's files ---------------------------------------------------------------------------------------------------


def made_up(network: nn.Module, seed: int = 0) -> dict[str, np.ndarray]:
    """A state of Keras's layout, drawn at random: names, and axes in its order."""
    rng = np.random.default_rng(seed)
    state: dict[str, np.ndarray] = {}
    for name, (path, layer) in keras.keras_names(network).items():
        value = layer
        for part in path.removeprefix(prefix_of(network, layer)).lstrip(".").split("."):
            value = getattr(value, part)
        shape = tuple(value.shape)
        if len(shape) == 4:
            out, have, h, w = shape
            shape = (h, w, out, have) if name.endswith("depthwise_kernel") else (h, w, have, out)
        elif len(shape) == 2:
            shape = shape[::-1]
        numbers = rng.normal(0, 0.1, shape) if "variance" not in name else rng.uniform(0.5, 2, shape)
        state[f"{name}:0"] = numbers.astype(np.float32)
    return state


def prefix_of(network: nn.Module, layer: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if module is layer)


@pytest.mark.parametrize("name", ["songnet", "weinet", "mobilenetv3"])
def test_a_file_of_keras_becomes_ours_strictly(name: str) -> None:
    state = made_up(meta(name))
    assert paper.network_of(state) == name
    network = nets.CLASSIFIERS[name]()
    network.load_state_dict(paper.convert_official(state), strict=True)
    some = sorted(state)[0]
    for wrong in ({k: v for k, v in state.items() if k != some}, {**state, "more/kernel:0": np.zeros(1)}):
        with pytest.raises(CheckpointError, match=r"missing|unknown"):
            paper.convert_official(wrong, network=name)
        with pytest.raises(CheckpointError, match=name):
            paper.convert_official(wrong)
    with pytest.raises(CheckpointError, match="shape"):
        paper.convert_official({**state, some: np.zeros((1, 2, 3))}, network=name)
    with pytest.raises(OptionError):
        paper.convert_official(state, network="vgg17")


def test_all_twelve_are_told_apart_by_names_and_shapes() -> None:
    for name in nets.CLASSIFIERS:
        network = meta(name)
        shapes = {k: np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, (0,) * len(shape))
                  for k, shape in shapes_of(network).items()}  # fmt: skip
        assert paper.network_of(shapes) == name


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    found = {}
    for name, (path, layer) in keras.keras_names(network).items():
        value = layer
        for part in path.removeprefix(prefix_of(network, layer)).lstrip(".").split("."):
            value = getattr(value, part)
        found[name] = keras._keras_shape(tuple(value.shape), name)
    return found


def test_numbers_of_layers_are_counted_anew() -> None:
    state = made_up(meta("songnet"))
    later = {k.replace("conv2d_3", "conv2d_97").replace("conv2d_2", "conv2d_21"): v for k, v in state.items()}
    later = {k.replace("dense/", "dense_4/"): v for k, v in later.items()}
    assert later.keys() != state.keys()
    ours, again = paper.convert_official(state), paper.convert_official(later)
    assert all(torch.equal(value, again[name]) for name, value in ours.items())


def test_convolution_flattening_and_dense_layer_are_those_of_keras() -> None:
    """Naively, in channels-last: convolution "same", pooling, then a flattening in the order H, W, C."""
    network = nets.weinet(size=4, width=0.25)
    with torch.device("meta"):
        small = nets.weinet(size=4, width=0.25)
    state = made_up(small, 3)
    network.load_state_dict(keras.converted(state, network, "weinet"))
    image = np.random.default_rng(1).normal(size=(4, 4, 3))
    x = image
    for layer in ("conv2d", "conv2d_1", "conv2d_2"):
        kernel, bias = state[f"{layer}/kernel:0"].astype(np.float64), state[f"{layer}/bias:0"]
        out = np.zeros((4, 4, kernel.shape[3]))
        for i, j, a, b in itertools.product(range(4), range(4), range(7), range(7)):
            y, z = i + a - 3, j + b - 3
            if 0 <= y < 4 and 0 <= z < 4:
                out[i, j] += x[y, z] @ kernel[a, b]
        out = np.maximum(out + bias, 0)
        grown = np.full((5, 5, out.shape[2]), -np.inf)
        grown[:4, :4] = out
        x = np.maximum.reduce([grown[i : i + 4, j : j + 4] for i in (0, 1) for j in (0, 1)])
    want = x.reshape(-1) @ state["dense/kernel:0"] + state["dense/bias:0"]
    got = network.double().eval()(torch.from_numpy(image.transpose(2, 0, 1)[None]))
    assert got[0].detach().numpy() == pytest.approx(want, abs=1e-5)


def test_separable_and_depthwise_kernels_and_normalisation_are_those_of_keras() -> None:
    rng = np.random.default_rng(0)
    layers = nn.Sequential(
        nets.Separable(8, 9, name="s"), nets.Norm(9, name="n", scale=False), nets.Depthwise(9, 3, name="d")
    )  # fmt: skip
    state = {
        "s/depthwise_kernel": rng.normal(size=(3, 3, 8, 1)), "s/pointwise_kernel": rng.normal(size=(1, 1, 8, 9)),
        "n/beta": rng.normal(size=9), "n/moving_mean": rng.normal(size=9), "n/moving_variance": rng.uniform(1, 2, 9),
        "d/depthwise_kernel": rng.normal(size=(3, 3, 9, 1)),
    }  # fmt: skip
    layers.load_state_dict(keras.converted(state, layers, "three layers"), strict=True)
    x = rng.normal(size=(5, 5, 8))

    def depthwise(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        padded = np.pad(values, ((1, 1), (1, 1), (0, 0)))
        return sum(padded[a : a + 5, b : b + 5] * kernel[a, b, :, 0] for a in range(3) for b in range(3))

    want = depthwise(x, state["s/depthwise_kernel"]) @ state["s/pointwise_kernel"][0, 0]
    want = (want - state["n/moving_mean"]) / np.sqrt(state["n/moving_variance"] + 1e-3) + state["n/beta"]
    want = depthwise(want, state["d/depthwise_kernel"])
    got = layers.double().eval()(torch.from_numpy(x.transpose(2, 0, 1)[None]))[0].detach().numpy().transpose(1, 2, 0)
    assert got == pytest.approx(want, abs=1e-4)


class Group(dict):  # type: ignore[type-arg]
    """A group of an HDF5 file: paths through it, and attributes."""

    def __init__(self, attrs: dict[str, Any], **parts: Any) -> None:
        super().__init__(parts)
        self.attrs = attrs

    def __getitem__(self, path: str) -> Any:
        return super().__getitem__(path)


def test_the_groups_of_a_file_are_walked_by_their_attributes() -> None:
    first = Group({"weight_names": [b"block1_conv1/kernel:0"]}, **{"block1_conv1/kernel:0": np.ones((1, 1, 3, 8))})
    second = Group({"weight_names0": [b"dense/kernel:0"], "weight_names1": [b"dense/bias:0"]},
                   **{"dense/kernel:0": np.ones((8, 6)), "dense/bias:0": np.zeros(6)})  # fmt: skip
    empty = Group({"weight_names": []})
    root = Group({"layer_names": [b"vgg16", b"pool", b"dense"]}, vgg16=first, dense=second, pool=empty)
    found = keras.arrays_of(root)
    assert list(found) == ["block1_conv1/kernel:0", "dense/kernel:0", "dense/bias:0"]
    assert keras.arrays_of(Group({}, model_weights=root)).keys() == found.keys()
    with pytest.raises(CheckpointError, match="layout"):
        keras.arrays_of(Group({}))


def test_hdf5_is_read_where_h5py_is_there(tmp_path: Path) -> None:
    file = tmp_path / "SongNet_CV1_weights.h5"
    try:
        import h5py
    except ImportError:
        with pytest.raises(MissingExtra, match=r"mien\[audit\]"):
            paper.read_keras(file)
        return
    state = made_up(meta("songnet"))
    with h5py.File(file, "w") as opened:
        layers = list(dict.fromkeys(name.split("/")[0] for name in state))
        opened.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            own = [name for name in state if name.split("/")[0] == layer]
            opened.create_group(layer).attrs["weight_names"] = [name.encode() for name in own]
            for name in own:
                opened[layer].create_dataset(name, data=state[name])
    weights = paper.import_official(file, tmp_path / "songnet.safetensors", name="songnet-cv1")
    assert weights.arguments["network"] == "songnet"
    assert weights.input.std == (255.0,) * 3
    with pytest.raises(CheckpointError, match="cannot be read"):
        paper.read_keras(tmp_path / "none.h5")


def test_a_run_of_the_recipe_becomes_weights_that_read_expressions(tmp_path: Path) -> None:
    from mien.train.checkpoint import save_weights
    from mien.weights.load import build, fill, read_state

    torch.manual_seed(0)
    network = nets.songnet(size=32, width=0.25)
    save_weights(tmp_path / "weights.safetensors", network)
    about = {"recipe": "ExpressionRecipe", "network": "songnet", "width": 0.25, "side": 32}
    (tmp_path / "config.json").write_text(json.dumps(about))
    weights = paper.import_official(tmp_path / "weights.safetensors", tmp_path / "out.safetensors", name="mine")
    assert (weights.task, weights.input.size, weights.input.template) == ("reading", 32, "arcface112")
    again = build(weights)
    fill(again, read_state(tmp_path / "out.safetensors"), source="the file")
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(again.eval()(x), network.eval()(x), atol=1e-6)
    (tmp_path / "config.json").write_text(json.dumps({**about, "recipe": "MarginRecipe"}))
    with pytest.raises(CheckpointError, match="mien train expression"):
        paper.import_official(tmp_path / "weights.safetensors", tmp_path / "out.safetensors")
    with pytest.raises(OptionError, match="read expressions"):
        paper.import_official(tmp_path / "weights.safetensors", tmp_path / "out.safetensors", task="parsing")


def test_six_expressions_stand_in_their_columns_and_the_others_are_zero() -> None:
    raw = np.log(np.array([[0.1, 0.2, 0.3, 0.25, 0.05, 0.1]], np.float32))
    columns = paper.decode(raw, {})["expressions"][0]
    assert dict(zip(EXPRESSIONS, columns.tolist(), strict=True)) == pytest.approx(
        {"neutral": 0, "contempt": 0, **dict(zip(paper.EKMAN, np.exp(raw[0]).tolist(), strict=True))}, abs=1e-6
    )
    assert paper.decode(raw, {"expression": 2.0})["expressions"].max() < columns.max()
    assert paper.decode(raw[:0], {})["expressions"].shape == (0, 8)


# --- LIME ------------------------------------------------------------------------------------------------------------


def test_the_regression_is_ridge_with_weights_and_a_free_intercept() -> None:
    rng = np.random.default_rng(0)
    z, y, w = (rng.random((60, 7)) < 0.5).astype(np.float64), rng.random(60), rng.random(60)
    found = torch.from_numpy(lime.ridge(z, y, w, 0.7))
    shift = torch.tensor(float(np.average(y - z @ found.numpy(), weights=w)), dtype=torch.float64)
    found.requires_grad_()
    shift.requires_grad_()
    left = torch.from_numpy(y) - torch.from_numpy(z) @ found - shift
    loss = (torch.from_numpy(w) * left**2).sum() + 0.7 * (found**2).sum()
    gradients = torch.autograd.grad(loss, (found, shift))
    assert all(gradient.abs().max() < 1e-10 for gradient in gradients)  # the minimum of a convex function
    linear = pytest.importorskip("sklearn.linear_model", reason="the extra evaluate is not installed")
    assert found.detach().numpy() == pytest.approx(linear.Ridge(alpha=0.7).fit(z, y, sample_weight=w).coef_)


def test_samples_weigh_by_their_cosine_distance_to_all_on() -> None:
    on = lime.switches(50, 9, np.random.default_rng(1))
    assert on[0].all()
    assert 0.4 < on[1:].mean() < 0.6
    on[7] = False
    for row, weight in zip(on.astype(float), lime.kernel(on, 0.25), strict=True):
        norm = np.linalg.norm(row)
        distance = 1 - row @ np.ones(9) / (norm * 3) if norm else 1.0
        assert weight == pytest.approx(np.sqrt(np.exp(-(distance**2) / 0.25**2)))


def quarters(pictures: np.ndarray) -> np.ndarray:
    """Two classes: the brightness of the upper left quarter, and the rest."""
    part = pictures[:, :16, :16].mean((1, 2, 3)) / 255
    return np.stack([part, 1 - part], 1)


def smooth(count: int, seed: int = 0) -> np.ndarray:
    """Bright pictures (count, 32, 32, 3) of patches that superpixels can follow."""
    coarse = np.random.default_rng(seed).integers(150, 256, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8)


def test_maps_are_where_the_class_depends_on_the_picture() -> None:
    pytest.importorskip("skimage", reason="the extra audit is not installed")
    pictures = smooth(2)
    numbers = lime.Lime(samples=200, segments=16)
    maps = lime.explain(quarters, pictures, np.zeros(2, np.int64), lime=numbers)
    assert maps.shape == (2, 32, 32)
    assert maps.min() >= 0
    for one in maps:
        assert one[:12, :12].mean() > 8 * one[20:, 20:].mean()
    assert np.array_equal(maps[:1], lime.explain(quarters, pictures[:1], np.zeros(1, np.int64), lime=numbers))
    against = lime.explain(quarters, pictures[:1], np.ones(1, np.int64), lime=numbers)
    assert against[0, :8, :8].max() < 0.02  # what darkens the quarter speaks for the other class only where it is off
    equal = lime.explain(
        quarters, pictures[:1], np.zeros(1, np.int64), lime=lime.Lime(samples=200, segments=16, equal=True)
    )
    assert (equal.min(), equal.max()) == (0, 1)
    stored = lime.Lime(samples=200, segments=16, rounded=True)
    rounded = lime.explain(quarters, pictures[:1], np.zeros(1, np.int64), lime=stored)
    assert np.allclose(255 * rounded, np.floor(255 * maps[:1] + 1e-4), atol=1e-3)


def test_hidden_segments_are_black_or_of_the_mean_colour() -> None:
    picture = np.full((8, 8, 3), (10, 20, 30), np.uint8)
    picture[4:] = (110, 120, 130)
    segments = np.repeat(np.arange(2), 4)[:, None] * np.ones((1, 8), np.int64)
    for hide, colour in (("black", (0, 0, 0)), ("mean", (60, 70, 80))):
        seen: list[np.ndarray] = []

        def predict(given: np.ndarray, seen: list[np.ndarray] = seen) -> np.ndarray:
            seen.append(given)
            return np.zeros((len(given), 1))

        lime.coefficients(
            predict, picture, segments.astype(np.int64), 0, lime.Lime(samples=40, batch=7, hide=hide),  # type: ignore[arg-type]
            np.random.default_rng(0),
        )  # fmt: skip
        assert [len(part) for part in seen] == [7] * 5 + [5]
        whole = np.concatenate(seen)
        assert np.array_equal(whole[0], picture)
        halves = {(tuple(one[0, 0].tolist()), tuple(one[7, 0].tolist())) for one in whole}
        assert halves == {(a, b) for a in ((10, 20, 30), colour) for b in ((110, 120, 130), colour)}


@pytest.mark.parametrize("wrong", [{"samples": 1}, {"segments": 1}, {"alpha": 0.0}, {"hide": "pink"}, {"width": -1.0}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        lime.Lime(**wrong)


def test_every_picture_needs_a_class() -> None:
    with pytest.raises(ShapeError):
        lime.explain(quarters, np.zeros((2, 8, 8, 3), np.uint8), np.zeros(1, np.int64))


# --- The canvas ------------------------------------------------------------------------------------------------------


def test_the_mean_face_lies_where_the_released_one_lies() -> None:
    points = canvas.template()
    for row, x in canvas.ANCHORS_X:
        assert abs(points[row, 0] - x) < 4
    for row, y in canvas.ANCHORS_Y:
        assert abs(points[row, 1] - y) < 6
    assert points.min() > 0
    assert (points.max(0) < (canvas.WIDTH, canvas.HEIGHT)).all()


def test_landmarks_go_to_those_of_the_mean_face() -> None:
    rng = np.random.default_rng(0)
    base = canvas.template() * np.float32(0.2) + np.float32([9, 4])
    points = (base + rng.normal(0, 0.2, (3, 68, 2))).astype(np.float32)
    x = np.broadcast_to(np.arange(64, dtype=np.float32), (3, 64, 64))
    y = x.transpose(0, 2, 1)
    there = canvas.to_canvas(np.ascontiguousarray(np.stack([x, y], -1)), points)
    at = np.rint(canvas.template()).astype(int)
    found = there[:, at[:, 1], at[:, 0]]
    assert np.abs(found - points).max() < 1.2  # the nearest pixel, of a place rounded to a pixel of the canvas


def test_the_warp_is_that_of_triangles_one_by_one() -> None:
    from scipy.spatial import Delaunay

    rng = np.random.default_rng(2)
    points = (canvas.template() * np.float32(0.2) + rng.normal(0, 0.5, (68, 2)) + [8, 3]).astype(np.float32)
    image = rng.integers(0, 256, (60, 60), np.uint8)
    there = canvas.to_canvas(image[None], points[None])[0]
    source = canvas.framed(points[None], 60, 60)[0].astype(float)
    target = canvas.framed(canvas.template()[None], canvas.HEIGHT, canvas.WIDTH)[0].astype(float)
    corners = Delaunay(target).simplices
    wrong = checked = 0
    for y, x in rng.integers(5, 220, (300, 2)).tolist():
        for triangle in corners:
            system = np.vstack([target[triangle].T, np.ones(3)])
            if abs(np.linalg.det(system)) < 1e-9:
                continue
            shares = np.linalg.solve(system, [x, y, 1])
            if (shares >= -1e-9).all():
                u, v = np.rint(shares @ source[triangle]).astype(int)
                inside = 0 <= u < 60 and 0 <= v < 60
                wrong += there[y, x] != (image[v, u] if inside else 0)
                checked += 1
                break
    assert checked == 300
    assert wrong <= 1  # on an edge two triangles may round apart


def test_what_lies_outside_of_a_picture_is_zero() -> None:
    points = canvas.template()[None] - np.float32([150, 0])
    warped = canvas.to_canvas(np.ones((1, 40, 40), np.uint8), points)
    assert 0 < warped.mean() < 0.9
    with pytest.raises(ShapeError):
        canvas.to_canvas(np.ones((2, 40, 40), np.uint8), points)


def test_global_maps_are_stretched_means() -> None:
    maps = np.random.default_rng(0).random((5, 4, 3))
    mean = maps.mean(0)
    assert canvas.global_map(maps) == pytest.approx((mean - mean.min()) / (mean.max() - mean.min()), abs=1e-6)
    assert canvas.global_map(np.ones((2, 4, 3))).max() == 0
    assert canvas.global_map(np.zeros((0, 4, 3))).shape == (4, 3)


# --- Masks -----------------------------------------------------------------------------------------------------------


def test_masks_cover_about_as_much_as_the_released_ones() -> None:
    shares = {"anger": 0.250, "disgust": 0.234, "fear": 0.300, "happiness": 0.214, "sadness": 0.309, "surprise": 0.237}
    masks = paper.ekman_masks()
    assert tuple(masks) == paper.EKMAN
    for name, share in shares.items():
        assert abs(masks[name].mean() - share) < 0.045, name
    pairs = {("anger", "surprise"): 0.569, ("anger", "fear"): 0.560, ("disgust", "happiness"): 0.542,
             ("happiness", "surprise"): 0.027}  # fmt: skip
    for (a, b), value in pairs.items():
        assert abs(compare.iou(masks[a], masks[b]) - value) < 0.06
    for name, mask in masks.items():  # of a symmetric face symmetric; a pixel at the edges may round apart
        centre = round(2 * float(canvas.template()[30, 0]))
        mirrored = np.zeros_like(mask)
        mirrored[:, max(0, centre - 223) : centre + 1] = mask[:, max(0, centre - 223) : centre + 1][:, ::-1]
        assert compare.iou(mask, mirrored) > 0.96, name
        assert (mask & paper.face_mask()).sum() > 0.93 * mask.sum()


def test_corners_are_named_as_in_the_paper() -> None:
    points = canvas.template()
    assert corner("19") == pytest.approx(points[18].tolist())
    assert corner("19^") == pytest.approx((float(points[18, 0]), 0))
    assert corner("40_") == pytest.approx((float(points[39, 0]), float(points[29, 1])))
    assert corner("mL") == pytest.approx(((points[4] + points[48]) / 2).tolist())
    assert corner("mR") == pytest.approx(((points[12] + points[54]) / 2).tolist())


# --- Comparison ------------------------------------------------------------------------------------------------------


def test_otsu_splits_where_the_variance_between_the_sides_is_greatest() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.05, 300), rng.normal(0.7, 0.1, 100)]).reshape(20, 20)
    low, high = values.min(), values.max()
    edges = np.linspace(low, high, 257)
    centres = (edges[:-1] + edges[1:]) / 2
    binned = centres[np.clip(np.digitize(values, edges) - 1, 0, 255)].ravel()

    def between(threshold: float) -> float:
        low, high = binned[binned <= threshold], binned[binned > threshold]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(high) else -1.0

    best = max(centres[:-1], key=between)
    assert compare.otsu(values) == pytest.approx(best)
    assert compare.binary(values).mean() == pytest.approx(0.25, abs=0.02)
    assert not compare.binary(np.ones((4, 4))).any()
    filters = pytest.importorskip("skimage.filters", reason="the extra audit is not installed")
    assert compare.otsu(values) == pytest.approx(filters.threshold_otsu(values))


def test_overlaps_are_those_of_counting() -> None:
    rng = np.random.default_rng(3)
    heat = rng.random((12, 10))
    heat[2:5, 3:7] += 2
    mask = np.zeros((12, 10), bool)
    mask[3:7, 3:8] = True
    other = ~mask
    found = compare.against(heat, {"anger": mask, "fear": other}, "anger", face=np.ones_like(mask))
    hot = compare.binary(heat)
    assert 10 <= hot.sum() <= 20
    both, either = (hot & mask).sum(), (hot | mask).sum()
    assert found.iou == pytest.approx(both / either)
    assert found.precision == pytest.approx(both / hot.sum())
    assert found.recall == pytest.approx(both / 20)
    assert found.f1 == pytest.approx(2 * found.precision * found.recall / (found.precision + found.recall))
    assert found.wrong_iou == pytest.approx((hot & other).sum() / (hot | other).sum())
    wins = [float(a > b) + 0.5 * float(a == b) for a in heat[mask] for b in heat[other]]
    assert found.auc == pytest.approx(np.mean(wins))
    assert found.wrong_auc == pytest.approx(1 - np.mean(wins))
    assert found.rank == 1
    assert found.shift_p <= 0.2
    assert found.coverage == pytest.approx(hot.mean())
    assert all(type(value) in (int, float) for value in found.to_dict().values())
    with pytest.raises(OptionError):
        compare.against(heat, {"anger": mask}, "joy")
    with pytest.raises(ShapeError):
        compare.against(heat, {"anger": mask[1:]}, "anger")


def test_chance_is_what_random_masks_give() -> None:
    rng = np.random.default_rng(0)
    hot = rng.random((60, 60)) < 0.25
    random = [compare.iou(hot, rng.random((60, 60)) < 0.25) for _ in range(200)]
    assert np.mean(random) == pytest.approx(compare.chance_iou(0.25, 0.25), abs=0.005)
    assert compare.chance_iou(0.25, 0.25) == pytest.approx(0.143, abs=0.001)
    face = np.zeros((60, 60), bool)
    face[10:50, 10:50] = True
    heat = np.where(face, rng.random((60, 60)), 0)
    mask = np.zeros_like(face)
    mask[10:30, 10:30] = True
    within = []
    for _ in range(200):
        picked = np.zeros(3600, bool)
        picked[rng.choice(np.flatnonzero(face.ravel()), int(mask.sum()), replace=False)] = True
        within.append(compare.iou(compare.binary(heat), picked.reshape(60, 60)))
    assert compare.against(heat, {"a": mask}, "a", face=face).face_iou == pytest.approx(np.mean(within), abs=0.01)


def test_displaced_masks_are_rolled_ones() -> None:
    rng = np.random.default_rng(1)
    hot, mask = rng.random((2, 9, 8)) < 0.4
    every = sorted(
        compare.iou(hot, np.roll(mask, (dy, dx), (0, 1))) for dy in range(9) for dx in range(8) if (dy, dx) != (0, 0)
    )
    assert sorted(compare.shifted_ious(hot, mask, count=1000)) == pytest.approx(every)
    assert len(compare.shifted_ious(hot, mask, count=7)) == 7


def test_correlations_and_trees() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 7, 6))
    maps = [a, a * 2 + 1, b, b + 0.1 * rng.random((7, 6))]
    r = compare.correlations(maps)
    assert r == pytest.approx(np.corrcoef([m.ravel() for m in maps]))
    assert compare.correlations([a, np.ones_like(a)])[0, 1] == 0
    links = compare.tree(r)
    assert links.shape == (3, 4)
    assert {frozenset(map(int, row[:2])) for row in links[:2]} == {frozenset({0, 1}), frozenset({2, 3})}
    average = np.mean([1 - r[i, j] for i in (0, 1) for j in (2, 3)])
    assert links[2, 2] == pytest.approx(average)
    assert compare.tree(r[:1, :1]).shape == (0, 4)
    within, across = compare.within_and_across(r, ["x", "x", "y", "y"])
    assert within == pytest.approx((r[0, 1] + r[2, 3]) / 2)
    assert across == pytest.approx(1 - average)
    with pytest.raises(OptionError):
        compare.within_and_across(r, ["x"] * 4)


# --- The audit of a model --------------------------------------------------------------------------------------------


def test_pictures_predicted_as_a_class_are_explained_and_not_those_of_it() -> None:
    predicted = np.array([0, 1, 1, 0, 1, 2])
    assert paper.chosen(predicted, 1, 10, seed=0).tolist() == [1, 2, 4]
    assert len(paper.chosen(predicted, 1, 2, seed=0)) == 2
    assert set(paper.chosen(predicted, 1, 2, seed=5).tolist()) <= {1, 2, 4}


def test_global_maps_of_a_model_that_looks_at_one_place() -> None:
    pytest.importorskip("skimage", reason="the extra audit is not installed")
    pictures = smooth(8)
    points = np.repeat((canvas.template() * np.float32(0.115) + np.float32([3, 0]))[None], 8, 0)

    model = paper.ExpressionModel(name="quarter", predict=quarters, classes=("Angry", "neutral"), size=32)
    assert model.classes == ("anger", "neutral")
    told: list[tuple[int, int]] = []
    maps = paper.global_maps(
        model, pictures, points, most=3, lime=lime.Lime(samples=120, segments=16), told=lambda *d: told.append(d)
    )  # fmt: skip
    assert list(maps) == ["anger"]
    assert maps["anger"].count == 3
    assert told[-1] == (3, 3)
    heat = maps["anger"].heat
    assert heat[:100, :80].mean() > 3 * heat[180:, 140:].mean()
    assert maps["anger"].mean_face.shape == (275, 224, 3)
    two = maps["anger"] + maps["anger"]
    assert two.count == 6
    assert np.allclose(two.heat, heat)
    assert paper.GlobalMap.nothing().heat.max() == 0
    with pytest.raises(ShapeError, match="quarter"):
        paper.probabilities(paper.ExpressionModel(name="quarter", predict=quarters, size=32), pictures)


def test_without_the_warp_all_pictures_share_the_mean_landmarks() -> None:
    pytest.importorskip("skimage", reason="the extra audit is not installed")
    rng = np.random.default_rng(0)
    pictures = smooth(4)
    points = canvas.template()[None] * np.float32(0.115) + rng.normal(0, 3, (4, 1, 2)).astype(np.float32)
    model = paper.ExpressionModel(name="quarter", predict=quarters, classes=("anger", "fear"), size=32)
    numbers = lime.Lime(samples=60, segments=16)
    plain, same = (
        paper.global_maps(model, pictures, p, lime=numbers, aligned=aligned)["anger"].total
        for p, aligned in ((points, False), (np.repeat(points.mean(0, keepdims=True), 4, 0), True))
    )
    assert np.allclose(plain, same)
    assert not np.allclose(plain, paper.global_maps(model, pictures, points, lime=numbers)["anger"].total)


def test_a_network_of_torch_is_a_model() -> None:
    torch.manual_seed(0)
    network = nets.songnet(size=32, width=0.25)
    prepared = nets.Prepared(32, (10.0, 20.0, 30.0), (50.0, 60.0, 70.0), "BGR")
    model = paper.of_network(network, name="mine", prepared=prepared, template="photo")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    x = (pictures[..., ::-1].astype(np.float32) - prepared.mean) / prepared.std
    want = network(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))).softmax(1)
    assert model.predict(pictures) == pytest.approx(want.detach().numpy(), abs=1e-5)
    assert (model.size, model.template, network.training) == (32, "photo", False)


@pytest.mark.parametrize("wrong", [{"classes": ("happy", "joy")}, {"classes": ()}, {"size": 2}])
def test_models_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        paper.ExpressionModel(name="x", predict=quarters, **wrong)
