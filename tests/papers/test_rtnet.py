"""RTNet: its blocks derived again, the released layout, stored answers of the released code, the way to the verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, ShapeError
from mien.faces import PARSING
from mien.geometry.tanh_polar import Frame, conversion_points, polar_to_tanh, tanh_to_polar
from mien.nn.count import count_macs, count_parameters
from mien.papers import rtnet
from mien.papers.rtnet import checkpoint, parsing
from mien.weights import load, registered
from mien.weights.load import fold_normalisation

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"width": 16, "layers": (2, 2, 1, 1)}


def on_meta(build: Any, **options: Any) -> Any:
    with torch.device("meta"):
        return build(**options)


def shaken(network: Any, seed: int = 0) -> Any:
    """Numbers in which every branch has a part, normalisations included."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low in ((layer.weight, 0.5), (layer.running_var, 0.5), (layer.bias, -0.2)):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + low)
            assert layer.running_mean is not None
            layer.running_mean.copy_(torch.rand(layer.running_mean.shape, generator=generator) - 0.5)
    return network.eval()


# --- Networks --------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_released_networks() -> None:
    want = {
        ("rtnet50", 11, "fcn"): 27_330_123, ("rtnet101", 14, "fcn"): 41_310_286, ("resnet50", 14, "fcn"): 32_953_422,
        ("resnet50", 14, "deeplabv3plus"): 39_761_872,
    }  # fmt: skip
    page = (ROOT / "docs" / "papers" / "rtnet.md").read_text("utf-8")
    for (name, classes, decoder), parameters in want.items():
        network = on_meta(getattr(rtnet, name), classes=classes, decoder=decoder)
        assert count_parameters(network) == parameters
        assert f"{parameters:,}" in page
        if decoder == "fcn":
            told = getattr(rtnet, name).__doc__
            assert f"{parameters / 1e6:.1f} M" in told
            assert f"{count_macs(network, (1, 3, 513, 513)) / 1e9:.1f} GMAC" in told
    with torch.device("meta"):
        maps = rtnet.rtnet50().encoder(torch.empty(1, 3, 513, 513), torch.empty(1, 4))
    assert [tuple(one.shape) for one in maps] == [(1, 256, 129, 129), *((1, w, 65, 65) for w in (512, 1024, 2048))]


def test_blocks_stand_where_the_paper_puts_them() -> None:
    encoder = on_meta(rtnet.rtnet50).encoder
    kinds = [[getattr(block, "branches", "plain block") for block in stage] for stage in encoder.stages]
    strided, hybrid = ("polar", "plain"), ("polar", "tanh")
    assert kinds == [[strided, "plain block", "plain block"], *([strided] + [hybrid] * n for n in (3, 5, 2))]
    dilations = [[int(block.middle[0][1].dilation[0]) for block in stage if hasattr(block, "branches")]
                 for stage in encoder.stages]  # fmt: skip
    assert dilations == [[1], [1] * 4, [1] + [2] * 5, [2] + [4] * 2]


def test_padding_knows_the_circle_and_repeats_the_rim() -> None:
    x = torch.arange(24.0).view(1, 1, 4, 6)
    got = rtnet.MixedPadding(2)(x)[0, 0]
    for i in range(8):
        for j in range(10):
            assert got[i, j] == x[0, 0, (i - 2) % 4, min(max(j - 2, 0), 5)]
    with pytest.raises(ShapeError, match="too small"):
        rtnet.MixedPadding(5)(x)


def norm(layer: Any, x: Tensor) -> Tensor:
    column = (1, -1, 1, 1)
    scale = (layer.weight / (layer.running_var + layer.eps).sqrt()).view(column)
    out: Tensor = (x - layer.running_mean.view(column)) * scale + layer.bias.view(column)
    return out


@pytest.mark.parametrize("branches", [("polar", "tanh"), ("tanh", "tanh"), ("polar", "plain")])
def test_the_hybrid_block_is_that_of_the_formulas(branches: tuple[Any, Any]) -> None:
    torch.manual_seed(0)
    block = shaken(rtnet.HybridBlock(24, 8, stride=1, dilation=2, branches=branches)).double()
    x = torch.randn(2, 24, 9, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0.0, 0.0, 40.0, 60.0], [5.0, 5.0, 30.0, 20.0]], dtype=torch.float64)
    got = block(x, conversion_points(rois, (9, 7), (9, 7)))
    parts = []
    for kind, enter, middle in zip(branches, block.enter, block.middle, strict=True):
        a = torch.relu(norm(enter[1], torch.einsum("oc,bchw->bohw", enter[0].weight[:, :, 0, 0], x)))
        if kind == "polar":
            rows = torch.cat([a[:, :, -2:], a, a[:, :, :2]], 2)
            padded = torch.cat([rows[..., :1]] * 2 + [rows] + [rows[..., -1:]] * 2, 3)
            a = norm(middle[2], F.conv2d(padded, middle[1].weight, dilation=2))
        elif kind == "tanh":
            plane = F.conv2d(polar_to_tanh(a, rois), middle[1].weight, padding=2, dilation=2)
            a = tanh_to_polar(norm(middle[2], plane), rois)
        else:
            a = norm(middle[2], F.conv2d(a, middle[1].weight, padding=2, dilation=2))
        parts.append(torch.relu(a))
    joined = norm(block.leave[1], F.conv2d(torch.cat(parts, 1), block.leave[0].weight))
    want = torch.relu(joined + norm(block.shortcut[1], F.conv2d(x, block.shortcut[0].weight)))
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-9)
    mine, naive = (torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0] for y in (got, want))
    torch.testing.assert_close(mine, naive, atol=1e-10, rtol=1e-8)


def test_a_square_box_s_map_may_be_rolled_in_polar_branches_and_not_in_others() -> None:
    x = torch.randn(1, 24, 8, 7)
    kinds: tuple[tuple[Any, bool], ...] = (("polar", True), ("plain", False))
    for kind, equivariant in kinds:
        block = shaken(rtnet.HybridBlock(24, 8, stride=1, dilation=1, branches=("polar", kind)))
        with torch.no_grad():
            gap = (block(x.roll(3, 2)) - block(x).roll(3, 2)).abs().max()
        assert (float(gap) < 1e-5) is equivariant


def test_only_the_ratio_of_the_box_matters_and_without_one_it_is_a_square() -> None:
    torch.manual_seed(0)
    network = shaken(rtnet.rtnet50(classes=5, **SMALL))
    x = torch.randn(2, 3, 49, 49)
    square = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 4)
    wide = torch.tensor([[0.0, 0.0, 90.0, 60.0]]).expand(2, 4)
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(x, square * 71 + 3), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(network(x, wide), network(x, wide * 3 + 20), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(network(x), network(x, wide), atol=1e-3)
    with pytest.raises(ShapeError, match="one box for each"):
        network(x, square[:1])


def test_the_deep_head_keeps_its_rim() -> None:
    """Two pixels more after the padded 1 x 1; the low map's size after resizing corner to corner."""
    torch.manual_seed(0)
    head = shaken(rtnet.DeepLabHead((64, 128, 256, 512), 5))
    maps = tuple(torch.randn(1, w, s, s) for w, s in ((64, 13), (128, 7), (256, 7), (512, 7)))
    seen: dict[str, Tensor] = {}
    head.gather.register_forward_hook(lambda _, __, out: seen.__setitem__("gather", out))
    with torch.no_grad():
        assert head(maps).shape == (1, 5, 13, 13)
        rim = torch.relu(norm(head.gather[1], head.gather[0].bias.view(1, -1, 1, 1)))
    assert seen["gather"].shape == (1, 64, 9, 9)
    torch.testing.assert_close(seen["gather"][..., 0, 3], rim[..., 0, 0])
    assert [branch[0].dilation[0] for branch in head.aspp] == [1, 6, 12, 18]


def test_networks_begin_at_their_shortcuts_and_refuse_what_is_not_there() -> None:
    network = rtnet.rtnet50(classes=3, **SMALL)
    blocks: list[Any] = [layer for layer in network.modules() if isinstance(layer, rtnet.HybridBlock)]
    assert blocks
    assert all(not block.leave[1].weight.any() for block in blocks)
    for wrong, message in (({"decoder": "unet"}, "decoder"), ({"branches": ("polar", "round")}, "branches")):
        with pytest.raises(OptionError, match=message):
            rtnet.rtnet50(**SMALL, **wrong)
    with pytest.raises(OptionError, match="padding"):
        rtnet.resnet50(**SMALL, padding="mirror")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="keeps its size"):
        rtnet.HybridBlock(8, 8, stride=2, dilation=1, branches=("polar", "tanh"))


def test_normalisation_can_be_folded() -> None:
    torch.manual_seed(0)
    network = shaken(rtnet.rtnet50(classes=3, decoder="deeplabv3plus", **SMALL))
    x = torch.randn(1, 3, 49, 49)
    with torch.no_grad():
        want = network(x)
        got = fold_normalisation(network)(x)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    torch.testing.assert_close(got, want, atol=1e-3 * float(want.abs().max()), rtol=0)


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def released(*, hybrid: bool = True, deep: bool = False, classes: int = 11, width: int = 16) -> dict[str, Tensor]:
    """A made-up state dict of the released layout, written down from its description."""
    state: dict[str, Tensor] = {}

    def conv(name: str, out: int, wide: int, kernel: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, wide, kernel, kernel) / (kernel * wide**0.5)

    def bn(name: str, wide: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(wide) + 0.5, torch.randn(wide) / 9
        state[f"{name}.running_mean"], state[f"{name}.running_var"] = torch.randn(wide) / 9, torch.rand(wide) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    torch.manual_seed(classes)
    conv("encoder.conv1", width, 3, 7)
    bn("encoder.bn1", width)
    wide = width
    for stage in range(4):
        planes = width * 2**stage
        half, out = planes // 2, 4 * planes
        for number in range(2):
            where = f"encoder.layer{stage + 1}.{number}"
            if hybrid and not (stage == 0 and number):
                for branch in "ab":
                    conv(f"{where}.conv1_{branch}", half, wide, 1)
                    bn(f"{where}.bn1_{branch}", half)
                conv(f"{where}.conv_polar.0.1", half, half, 3)
                bn(f"{where}.conv_polar.1", half)
                conv(f"{where}.conv_cart.0", half, half, 3)
                bn(f"{where}.conv_cart.1", half)
            else:
                conv(f"{where}.conv1", planes, wide, 1)
                bn(f"{where}.bn1", planes)
                conv(f"{where}.conv2", planes, planes, 3)
                bn(f"{where}.bn2", planes)
            conv(f"{where}.conv3", out, planes, 1)
            bn(f"{where}.bn3", out)
            if number == 0:
                conv(f"{where}.downsample.0", out, wide, 1)
                bn(f"{where}.downsample.1", out)
            wide = out
    if not deep:
        conv("decoder.0", wide // 4, wide, 3)
        bn("decoder.1", wide // 4)
        conv("decoder.4", classes, wide // 4, 1)
        state["decoder.4.bias"] = torch.randn(classes)
        return state
    inner, low = 4 * width, 12 * width // 16

    def unit(name: str, out: int, wide: int, kernel: int) -> None:
        conv(f"{name}.conv", out, wide, kernel)
        state[f"{name}.conv.bias"] = torch.randn(out)
        bn(f"{name}.bn", out)

    for number in range(4):
        unit(f"decoder.aspp.conv{number + 1}", inner, wide, 3 if number else 1)
    unit("decoder.aspp.conv_out", inner, 4 * inner, 1)
    unit("decoder.decoder.conv_low", low, 4 * width, 1)
    unit("decoder.decoder.conv_cat.0", inner, inner + low, 3)
    unit("decoder.decoder.conv_cat.1", inner, inner, 3)
    conv("decoder.decoder.conv_out", classes, inner, 1)
    return state


@pytest.mark.parametrize(("hybrid", "deep", "classes"), [(True, False, 11), (True, True, 14), (False, True, 14)])
def test_released_layouts_are_converted_key_by_key(hybrid: bool, deep: bool, classes: int) -> None:
    state = released(hybrid=hybrid, deep=deep, classes=classes)
    shape = rtnet.shape_of(state)
    assert shape == {
        "encoder": "rtnet50" if hybrid else "resnet50", "decoder": "deeplabv3plus" if deep else "fcn",
        "classes": classes, "layers": (2, 2, 2, 2), "width": 16,
    }  # fmt: skip
    network = rtnet.build(**shape)
    network.load_state_dict(rtnet.convert_official(state), strict=True)
    numbers = [float(value.sum()) for value in network.state_dict().values()]
    assert sorted(numbers) == pytest.approx(sorted(float(value.sum()) for value in state.values()), abs=1e-4)
    packed = {"state_dict": {f"module.{name}": value for name, value in state.items()}}
    again = rtnet.convert_official(packed)
    assert all(torch.equal(value, again[name]) for name, value in rtnet.convert_official(state).items())
    fewer = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert rtnet.convert_official(fewer).keys() == again.keys()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda s: s.pop("encoder.layer2.1.conv_cart.0.weight"), r"1 missing \(encoder.stages.1.1.middle.1.1.weight"),
        (lambda s: s.update({"encoder.fc.weight": torch.zeros(3)}), r"1 unknown \(encoder.fc.weight"),
        (lambda s: s.update({"encoder.layer1.1.conv1_a.weight": torch.zeros(3)}), r"1 unknown"),
        (lambda s: s.update({"decoder.1.bias": torch.zeros(3)}), r"1 of another shape \(decoder.1.bias \(3,\)"),
        (lambda s: s.pop("decoder.4.weight"), "lacks the tensors"),
        (lambda s: s.update({"epoch": 3}), "not a state dict"),
    ],
)
def test_other_tensors_are_refused(spoil: Any, told: str) -> None:
    state = released()
    spoil(state)
    with pytest.raises(CheckpointError, match=told):
        rtnet.convert_official(state)


def test_weights_of_imagenet_are_taken_where_they_fit() -> None:
    torchvision = {
        name.removeprefix("encoder."): value for name, value in released(hybrid=False).items() if "encoder" in name
    }
    torchvision |= {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    network = rtnet.rtnet50(classes=3, width=16, layers=(2, 2, 2, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copied = set(rtnet.from_imagenet(network, torchvision))
    state = network.state_dict()
    assert torch.equal(state["encoder.stem.0.weight"], torchvision["conv1.weight"])
    assert torch.equal(state["encoder.stages.0.1.middle.1.weight"], torchvision["layer1.1.conv2.weight"])
    assert torch.equal(state["encoder.stages.2.1.leave.0.weight"], torchvision["layer3.1.conv3.weight"])
    new = {name for name in state if ".middle.0." in name or ".middle.1." in name or name.startswith("head.")}
    hybrid = {name for name in new if not name.startswith("encoder.stages.0.1.")}
    assert not hybrid & copied
    assert all(torch.equal(state[name], before[name]) for name in hybrid)
    with pytest.raises(CheckpointError, match="not a ResNet"):
        rtnet.from_imagenet(network, {"a": torch.zeros(1)})


# --- Pictures --------------------------------------------------------------------------------------------------------


class Painted(nn.Module):
    """Knows parts by their colour: class k where the red channel is nearest to k / 13 of full."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        levels = torch.arange(self.classes).view(1, -1, 1, 1) / 13
        red: Tensor = (x[:, 2:] + 1) / 2  # BGR
        return -400 * (red - levels).square() * self.scale


def test_the_crop_s_classes_come_back_where_they_are_and_under_our_names() -> None:
    names = rtnet.CLASSES[14]
    crops = torch.zeros(1, 3, 96, 96)
    crops[:, 2, 44:54, 30:42] = 4 / 13  # l_eye
    crops[:, 2, 20:30, 30:60] = 10 / 13  # hair, above the box
    crops[:, 2, 60:70, 40:56] = 7 / 13  # u_lip
    inside = crops * 2 - 1
    for sides, eye in (("picture", "l_eye"), ("person", "r_eye")):
        network = rtnet.CropParser(Painted(14), names=names, warp=257, size=96, sides=sides)  # type: ignore[arg-type]
        logits = network(inside)
        assert logits.shape == (1, 19, 96, 96)
        found = logits.argmax(1)[0]
        for name, row, column in ((eye, 49, 36), ("hair", 25, 45), ("u_lip", 65, 48), ("background", 80, 80)):
            assert PARSING[int(found[row, column])] == name
        lacking = [PARSING.index(name) for name in ("hat", "neck", "cloth", "ear_r", "neck_l")]
        assert float(logits[:, lacking].detach().max()) < -20
        torch.testing.assert_close(logits.exp().sum(1), torch.ones(1, 96, 96), atol=1e-4, rtol=0)
    with pytest.raises(OptionError, match="unknown parts"):
        rtnet.CropParser(Painted(1), names=("wings",), warp=33)
    with pytest.raises(OptionError, match="unknown sides"):
        rtnet.CropParser(Painted(14), names=names, warp=33, sides="mine")  # type: ignore[arg-type]


def test_whole_pictures_are_parsed_as_the_paper_does() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    image[20:60, 30:70, 0] = round(10 * 255 / 13)
    image[80:110, 100:150, 0] = round(6 * 255 / 13)
    boxes = [[35, 30, 65, 70], [95, 75, 150, 115]]
    found = rtnet.parse(Painted(14).eval(), image, boxes, size=257, batch=1)
    assert found.shape == (2, 120, 160)
    assert found[0, 40, 50] == 10
    assert found[1, 95, 125] == 6
    assert not found[:, 2, 2].any()
    assert rtnet.parse(Painted(14).eval(), image, np.zeros((0, 4)), size=65).shape == (0, 120, 160)


def test_left_and_right_change_places_in_the_mirror() -> None:
    names = rtnet.CLASSES[14]
    swapped = {names[k]: names[m] for k, m in enumerate(parsing.mirrored(names)) if k != m}
    assert swapped == {f"{a}_{part}": f"{b}_{part}" for part in ("brow", "eye", "ear") for a, b in ("lr", "rl")}
    with pytest.raises(OptionError, match="no counterpart"):
        parsing.mirrored(("background", "l_eye"))


def test_an_imported_file_parses_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    state = released(classes=14)
    torch.save(state, tmp_path / "rtnet50-fcn-14.torch")
    file = tmp_path / "rtnet50-fcn-14.torch"
    made = rtnet.import_official(file, tmp_path / "x.safetensors", name="my-rtnet", size=60)
    assert (made.task, made.input.colour, made.input.template, made.input.size) == ("parsing", "BGR", "box", 60)
    assert made.input.margin == parsing.MARGIN
    assert "hats" in made.notes
    with registered(made):
        network = load("my-rtnet", device="cpu")
    crops = torch.rand(2, 3, 60, 60) * 2 - 1
    with torch.no_grad():
        got = network(crops)
        whole = rtnet.build(**rtnet.shape_of(state))
        whole.load_state_dict(rtnet.convert_official(state))
        high = 60 / parsing.MARGIN
        wide = high * parsing.ASPECT
        box = torch.tensor([[29.5 - wide / 2, 29.5 - high / 2, 29.5 + wide / 2, 29.5 + high / 2]]).expand(2, 4)
        frame = Frame("polar", 513)
        maps = frame.warp(crops + 1, box) - 1
        probabilities = frame.probabilities(whole.eval()(maps, box).softmax(1), box, (60, 60))
    hair = probabilities[:, rtnet.CLASSES[14].index("hair")]
    torch.testing.assert_close(got[:, PARSING.index("hair")].exp(), hair.clamp_min(parsing.FLOOR), atol=1e-4, rtol=1e-2)
    with pytest.raises(OptionError, match="safetensors"):
        rtnet.import_official(tmp_path / "rtnet50-fcn-14.torch", tmp_path / "x.pt")
    torch.save(released(classes=12), tmp_path / "odd.torch")
    with pytest.raises(CheckpointError, match="nobody has named"):
        rtnet.import_official(tmp_path / "odd.torch", tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        rtnet.declaration(tmp_path / "odd.torch")


# --- Golden tensors --------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_the_network_answers_as_the_released_code_does(golden: Any) -> None:
    state, inputs, outputs, _ = golden("rtnet50")
    network = rtnet.build(**rtnet.shape_of(state)).eval()
    network.load_state_dict(rtnet.convert_official(state), strict=True)
    with torch.no_grad():
        maps = network.encoder(inputs["image"], inputs["rois"])
        got = {f"c{number}": one.mean((2, 3)) for number, one in enumerate(maps, 1)}
        got["c4_top_left"] = maps[3][:, ::64, :6, :6]
        got["logits"] = F.interpolate(network.head(maps), size=(97, 97), mode="bilinear", align_corners=False)
    assert got.keys() == outputs.keys()
    for key, want in outputs.items():
        assert float((got[key] - want).abs().max()) <= 3e-5 * float(want.abs().max()), key


@pytest.mark.data
def test_the_warps_are_those_of_the_released_code(golden: Any) -> None:
    _, inputs, outputs, facts = golden("rtnet-warp")
    images, boxes, turn = inputs["images"], inputs["rois"], torch.rad2deg(inputs["angular_offsets"])
    size, shape, plane = (40, 48), (110, 120), 43
    assert (facts["target_height"], facts["target_width"], facts["conversion_width"]) == (*size, plane)
    got: dict[str, Tensor] = {}
    for kind, keep in (("keep", True), ("free", False)):
        polar = got[f"polar_{kind}"] = rtnet.warp_polar(images, boxes, size, keep_aspect=keep)
        got[f"polar_restored_{kind}"] = rtnet.restore_polar(polar, boxes, shape, keep_aspect=keep)
        flat = got[f"polar_to_tanh_{kind}"] = polar_to_tanh(polar, boxes, plane, keep_aspect=keep)
        got[f"tanh_to_polar_{kind}"] = tanh_to_polar(flat, boxes, size, keep_aspect=keep)
    turned = got["polar_rotated"] = rtnet.warp_polar(images, boxes, size, turn=turn)
    got["polar_rotated_restored"] = rtnet.restore_polar(turned, boxes, shape, turn=turn)
    got["tanh"] = rtnet.warp_tanh(images, boxes, size)
    got["tanh_restored"] = rtnet.restore_tanh(got["tanh"], boxes, shape)
    for key, value in got.items():
        gap = (value - outputs[key]).abs().flatten()
        assert float(gap.max()) <= 1e-4, key
        assert float(gap.quantile(0.999)) <= 2e-5, key
    nearest = rtnet.warp_polar(images, boxes, size, mode="nearest")
    assert float((nearest != outputs["polar_nearest"]).float().mean()) <= 0.005
    frame = Frame("polar", size)
    labels = frame.probabilities(inputs["logits"].softmax(1), boxes, shape).argmax(1)
    sure = outputs["labels_margin"] > 1e-3
    assert bool((labels == outputs["labels"])[sure].all())
    for row in range(2):
        picture = (images[row] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        bytes_ = frame.images(picture, boxes[row : row + 1].numpy())[0]
        assert np.array_equal(bytes_, outputs["reference_polar"][row].numpy())


def test_checkpoint_names_cover_the_released_layout() -> None:
    assert checkpoint.own_name("encoder.layer4.2.bn1_b.running_var") == "encoder.stages.3.2.enter.1.1.running_var"
    assert checkpoint.own_name("decoder.aspp.conv3.conv.bias") == "head.aspp.2.0.bias"
    for name in ("encoder.layer5.0.conv1.weight", "conv1.weight", "decoder.2.weight", "decoder.decoder.conv_out.bias"):
        assert checkpoint.own_name(name) is None
