"""SFace: the loss written out in float64, first weights, released files and OpenCV's, golden tensors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, ShapeError, ValueRangeError
from mien.nn.count import count_macs, count_parameters
from mien.papers import sface
from mien.papers.sface import checkpoint as checkpoint_module
from mien.train.classes import SFaceLayer
from mien.weights import info, load, registered

ROOT = Path(__file__).parents[2]


def on_meta(build: Any, **options: Any) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = build(**options)
    return network


def batch(count: int = 9, dim: int = 6, classes: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, dim, generator=generator, dtype=torch.float64),
        torch.randint(classes, (count,), generator=generator),
    )


# --- The loss --------------------------------------------------------------------------------------------------------


def written_out(cosines: Tensor, labels: Tensor, *, s: float, k: float, a: float, b: float) -> tuple[float, Tensor]:
    """The loss, and its gradient by the cosines in closed form."""
    total, slope = 0.0, torch.zeros_like(cosines)
    for i, row in enumerate(cosines.tolist()):
        for j, cosine in enumerate(row):
            t = math.acos(cosine)
            if j == int(labels[i]):
                slope[i, j] = -s / (1 + math.exp(-k * (t - a)))
            else:
                slope[i, j] = s / (1 + math.exp(k * (t - b)))
            total += float(slope[i, j]) * cosine
    return total / len(labels), slope / len(labels)


@pytest.mark.parametrize(("k", "a", "b"), [(80.0, 0.87, 1.2), (10.0, 0.5, 1.5), (40.0, 1.0, 1.2)])
def test_value_and_gradient_are_those_of_the_closed_form(k: float, a: float, b: float) -> None:
    z, labels = batch()
    torch.manual_seed(0)
    head = sface.SFaceLoss(6, classes=8, scale=16.0, k=k, a=a, b=b).double()
    z.requires_grad_()
    found = head(z, labels)
    found.loss.backward()
    other, weight = z.detach().clone().requires_grad_(), head.weight.detach().clone().requires_grad_()
    cosines = F.normalize(other, dim=1) @ F.normalize(weight, dim=1).T
    value, slope = written_out(cosines.detach(), labels, s=16.0, k=k, a=a, b=b)
    cosines.backward(slope)
    assert found.loss.item() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(z.grad, other.grad, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(head.weight.grad, weight.grad, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found.intra + found.inter, found.loss)
    torch.testing.assert_close(found.logits, 16.0 * cosines.detach())


def test_the_angles_are_detached() -> None:
    """With a gradient through the factors, the pull would turn round on the sigmoid's flank."""
    cosine = torch.cos(torch.tensor([[0.87, 1.5]], dtype=torch.float64)).requires_grad_()
    sface.sface_loss(cosine, torch.tensor([0]), a=0.87, b=1.2).loss.backward()
    assert cosine.grad is not None
    assert cosine.grad[0, 0].item() == pytest.approx(-32.0)  # half of s, where the sigmoid is steepest
    assert cosine.grad[0, 1].item() == pytest.approx(0.0, abs=1e-7)


def test_the_speed_fades_out_on_either_side() -> None:
    theta = torch.tensor([0.6, 0.87, 1.2])
    torch.testing.assert_close(sface.intra_scale(theta, a=0.87), torch.tensor([0.0, 32.0, 64.0]), atol=1e-4, rtol=1e-5)
    theta = torch.tensor([0.9, 1.2, 1.5])
    torch.testing.assert_close(sface.inter_scale(theta, b=1.2), torch.tensor([64.0, 32.0, 0.0]), atol=1e-4, rtol=1e-5)
    assert sface.ANGLES["casia-webface"] == (0.87, 1.20)


def test_it_is_the_layer_of_the_recipe() -> None:
    z, labels = batch()
    head = sface.SFaceLoss(6, classes=8, a=0.87, b=1.2).double()
    layer = SFaceLayer(6, classes=8, a=0.87, b=1.2).double()
    with torch.no_grad():
        layer.weight.copy_(head.weight)
    torch.testing.assert_close(layer(z, labels), head(z, labels).loss)


def test_half_numbers_and_vectors_on_their_class_stay_finite() -> None:
    head = sface.SFaceLoss(4, classes=3)
    z = torch.cat([head.weight.detach(), -head.weight.detach()]).half().requires_grad_()
    found = head(z, torch.tensor([0, 1, 2, 0, 1, 2]))
    found.loss.backward()
    assert found.loss.dtype == torch.float32
    assert torch.isfinite(found.loss)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_what_the_loss_refuses() -> None:
    with pytest.raises(OptionError, match="out of its range"):
        sface.SFaceLoss(4, classes=3, a=1.3)
    head = sface.SFaceLoss(4, classes=3)
    with pytest.raises(ShapeError, match="do not fit the head"):
        head(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="cosines and labels"):
        head(torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueRangeError, match="not classes"):
        head(torch.zeros(2, 4), torch.tensor([0, 3]))


# --- Networks --------------------------------------------------------------------------------------------------------


def test_first_weights_are_those_of_the_released_training() -> None:
    torch.manual_seed(0)
    network = sface.ir_50(depths=(1, 1, 1, 1), width=0.5, size=32, dim=64)
    unit = network.body[1].res_layer
    assert unit[1].weight.std().item() == pytest.approx(2 * math.sqrt(2 / (64 * 9)), rel=0.03)
    assert unit[2].weight.unique().tolist() == [1.0]
    assert unit[0].weight.unique().tolist() == [1.0]
    assert network.output_layer[3].weight.std().item() == pytest.approx(2 * math.sqrt(2 / 64), rel=0.03)
    assert network.output_layer[3].bias.abs().max() == 0
    mobile = sface.mobilefacenet(dim=64)
    assert mobile.conv_2_dw.conv2d.weight.std().item() == pytest.approx(2 * math.sqrt(2 / 9), rel=0.1)


def test_pixels_are_ten_times_the_usual_numbers() -> None:
    torch.testing.assert_close(
        sface.normalise(torch.tensor([0.0, 127.5, 255.0])), torch.tensor([-9.9609375, 0.0, 9.9609375])
    )


def test_picture_and_mirror_image_are_added() -> None:
    torch.manual_seed(0)
    network = sface.ir_50(depths=(1, 1, 1, 1), width=0.125, size=32, dim=8).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = network(x) + network(torch.flip(x, (3,)))
        torch.testing.assert_close(sface.embed_with_mirror(network, x), want / want.norm(dim=1, keepdim=True))


# --- Released files --------------------------------------------------------------------------------------------------


def official_ir(depths: tuple[int, ...], dim: int = 512) -> dict[str, Tensor]:
    """The released layout of an IR network, written down; tensors without memory of their own."""
    shapes: dict[str, tuple[int, ...]] = {"input_layer.0.weight": (64, 3, 3, 3), "input_layer.2.weight": (64,)}

    def norm(name: str, channels: int) -> None:
        for key in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{key}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("input_layer.1", 64)
    number, before = 0, 64
    for channels, depth in zip((64, 128, 256, 512), depths, strict=True):
        for _ in range(depth):
            unit = f"body.{number}"
            if before != channels:
                shapes[f"{unit}.shortcut_layer.0.weight"] = (channels, before, 1, 1)
                norm(f"{unit}.shortcut_layer.1", channels)
            norm(f"{unit}.res_layer.0", before)
            shapes[f"{unit}.res_layer.1.weight"] = (channels, before, 3, 3)
            shapes[f"{unit}.res_layer.2.weight"] = (channels,)
            shapes[f"{unit}.res_layer.3.weight"] = (channels, channels, 3, 3)
            norm(f"{unit}.res_layer.4", channels)
            number, before = number + 1, channels
    norm("output_layer.0", 512)
    shapes["output_layer.3.weight"], shapes["output_layer.3.bias"] = (dim, 512 * 49), (dim,)
    norm("output_layer.4", dim)
    return {
        name: torch.zeros((), dtype=torch.int64 if name.endswith("tracked") else torch.float32).expand(shape)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(("depths", "build"), [((3, 4, 14, 3), "ir_50"), ((3, 13, 30, 3), "ir_101")])
def test_a_released_backbone_fits(depths: tuple[int, ...], build: str) -> None:
    state = official_ir(depths)
    converted = sface.convert_official(state)
    with torch.device("meta"):
        own = getattr(sface, build)().state_dict()
    assert {name: value.shape for name, value in converted.items()} == {name: v.shape for name, v in own.items()}
    assert checkpoint_module.described(state) == (build, {"dim": 512, "size": 112})
    without = {name: value for name, value in state.items() if not name.endswith("tracked")}
    assert sface.convert_official(without).keys() == own.keys()  # nothing is computed from the counters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"body.3.res_layer.1.weight": None}, "1 missing"),
        ({"body.3.res_layer.5.weight": (64,)}, "1 unknown"),
        ({"output_layer.0.bias": (64,)}, "1 of another shape"),
        ({"output_layer.3.weight": None}, "do not fit together"),
        ({"body.24.res_layer.2.weight": (512,)}, "do not fit together"),
        ({"input_layer.0.weight": None}, "neither of the layouts"),
    ],
)
def test_a_backbone_of_another_kind_is_refused(change: dict[str, tuple[int, ...] | None], message: str) -> None:
    state = official_ir((3, 4, 14, 3))
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.zeros(()).expand(shape)
    with pytest.raises(CheckpointError, match=message):
        sface.convert_official(state)


def test_a_released_head_fits() -> None:
    weight = torch.randn(20, 8)
    head = sface.SFaceLoss(8, classes=20)
    head.load_state_dict(sface.convert_official({"weight": weight}), strict=True)
    assert torch.equal(head.weight, weight)
    with pytest.raises(CheckpointError):
        sface.convert_official({"weight": weight, "bias": torch.zeros(20)})


@pytest.mark.parametrize(
    ("file", "options", "std"),
    [
        ("Backbone_MobileFaceNet_Epoch_1_Batch_2_Time_3_checkpoint.pth", {}, 12.8),
        ("backbone_mobile.pth", {}, 127.5),
        ("mine.pth", {"scaling": "evolve"}, 127.5),
    ],
)
def test_a_backbone_is_declared_with_what_it_wants_to_see(
    tmp_path: Path, file: str, options: dict[str, Any], std: float
) -> None:
    torch.manual_seed(0)
    network = sface.MobileFaceNet().eval()  # untrained, the paper's first weights give numbers of any size
    torch.save(network.state_dict(), tmp_path / file)
    out = tmp_path / "made" / "x.safetensors"
    weights = sface.import_official(tmp_path / file, out, name="sface-mobile", **options)
    assert weights.input.std == (std, std, std)
    assert weights.parameters == count_parameters(network) == 1_201_024
    assert weights.macs == count_macs(network, (1, 3, 112, 112))
    assert weights.embedding is not None
    assert (weights.embedding.dim, weights.embedding.flip) == (512, True)
    with registered(weights):
        loaded = load("sface-mobile", device="cpu")
        crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
        with torch.no_grad():
            seen = info("sface-mobile").input.tensor(crops)
            raw = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
            if std == 12.8:
                torch.testing.assert_close(seen.contiguous(), sface.normalise(raw))
            torch.testing.assert_close(loaded(seen), network(seen), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(20, 8)}, tmp_path / "Head_x.pth")
    with pytest.raises(CheckpointError, match="this is the head"):
        sface.import_official(tmp_path / "Head_x.pth", tmp_path / "x.safetensors")
    with pytest.raises(OptionError, match="safetensors"):
        sface.import_official(tmp_path / "Head_x.pth", tmp_path / "x.pt")
    with pytest.raises(OptionError, match="unknown scaling"):
        sface.import_official(tmp_path / "Head_x.pth", tmp_path / "x.safetensors", scaling="half")  # type: ignore[arg-type]


# --- OpenCV's file ---------------------------------------------------------------------------------------------------


def opencv_like(dim: int = 128, side: int = 112) -> bytes:
    """An ONNX file with the inputs and outputs of OpenCV's: raw RGB (1, 3, 112, 112) -> (1, 128), not normalised."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(np.float32(127.5), "middle"),
        numpy_helper.from_array(np.float32(0.0078125), "factor"),
        numpy_helper.from_array(rng.normal(size=(dim, 3, 16, 16)).astype(np.float32) / 20, "kernel"),
    ]
    nodes = [
        helper.make_node("Sub", ["data", "middle"], ["a"]),
        helper.make_node("Mul", ["a", "factor"], ["b"]),
        helper.make_node("Conv", ["b", "kernel"], ["c"], strides=[16, 16]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["fc1"]),
    ]
    graph = helper.make_graph(
        nodes, "like OpenCV's",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, dim])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_an_onnx_file_serves_the_verbs(tmp_path: Path, home: Path, fakes: Any) -> None:
    from mien import embed
    from mien.verbs.weights import import_weights, verify_weights
    from mien.weights.onnx import export_onnx

    (tmp_path / "like.onnx").write_bytes(opencv_like())
    made = import_weights("sface", tmp_path / "like.onnx", name="sface-opencv")
    assert made.path.is_relative_to(home)
    weights = info("sface-opencv")
    assert "not OpenCV's file" in weights.source
    assert not weights.permissive
    assert verify_weights("sface-opencv").ok
    picture = fakes.picture((30, 40, 90, 1), (180, 60, 110, 2))
    found = {
        backend: embed(picture, weights="sface-opencv", device="cpu", backend=backend, **fakes.align)
        for backend in ("torch", "onnx")
    }
    assert found["torch"].embeddings.shape == (2, 128)
    assert found["torch"].contract == f"sface-opencv@{weights.sha256[:12]}"
    np.testing.assert_array_equal(found["torch"].embeddings, found["onnx"].embeddings)
    # What the graph sees are grey values in the order R, G, B.
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    kernel = np.random.default_rng(0).normal(size=(128, 3, 16, 16)).astype(np.float32) / 20
    x = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 127.5) * 0.0078125
    want = F.conv2d(x, torch.from_numpy(kernel), stride=16).mean((2, 3))
    got = load("sface-opencv", device="cpu")(weights.input.tensor(crops))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)
    with pytest.raises(OptionError, match="exported already"):
        export_onnx("sface-opencv", tmp_path / "again.onnx")


def test_the_published_file_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    data = opencv_like()
    (tmp_path / sface.OPENCV.file).write_bytes(data)
    like = sface.OPENCV._replace(sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(checkpoint_module, "OPENCV", like)
    weights = sface.import_official(tmp_path / sface.OPENCV.file, tmp_path / "x.safetensors")
    assert weights.permissive
    assert weights.licence == "Apache-2.0"
    assert "opencv/opencv_zoo" in weights.source
    assert weights.calibration == ()  # no false match rate is stated for the threshold
    assert (sface.OPENCV.size, len(sface.OPENCV.sha256)) == (38_696_353, 64)


@pytest.mark.parametrize(("options", "message"), [({"dim": 64}, "something else"), ({"side": 96}, "something else")])
def test_onnx_files_of_other_networks_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    (tmp_path / "x.onnx").write_bytes(opencv_like(**options))
    with pytest.raises(CheckpointError, match=message):
        sface.import_official(tmp_path / "x.onnx", tmp_path / "x.safetensors")


def test_a_damaged_onnx_file_is_refused(tmp_path: Path) -> None:
    data = opencv_like()
    for broken in (b"", b"not onnx at all", data[: len(data) // 2]):
        (tmp_path / "x.onnx").write_bytes(broken)
        with pytest.raises(CheckpointError):
            sface.import_official(tmp_path / "x.onnx", tmp_path / "x.safetensors")


# --- Golden tensors --------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_the_loss_is_that_of_the_released_code(golden: Any, dtype: torch.dtype, tolerance: float) -> None:
    _, inputs, outputs, _ = golden("sface-loss")
    head = sface.SFaceLoss(32, classes=20, a=0.87, b=1.2).to(dtype)
    head.load_state_dict(sface.convert_official({"weight": inputs["weight"]}))
    z = inputs["embeddings"].to(dtype).requires_grad_()
    found = head(z, inputs["labels"])
    found.loss.backward()
    seen = {
        "logits": found.logits, "loss": found.loss, "intra": found.intra, "inter": found.inter,
        "mean_cos_target": found.own_cosine, "mean_cos_other": found.other_cosine,
        "grad_embeddings": z.grad, "grad_weight": head.weight.grad,
    }  # fmt: skip
    assert seen.keys() == outputs.keys()
    for name, want in outputs.items():
        got = seen[name]
        assert got is not None
        assert float((got.detach() - want).abs().max()) <= tolerance * float(want.abs().max()), name


@pytest.mark.data
@pytest.mark.parametrize(("name", "build"), [("sface-ir50", "ir_50"), ("sface-mobilefacenet", "mobilefacenet")])
def test_the_backbones_answer_as_the_released_code_does(golden: Any, name: str, build: str) -> None:
    state, inputs, outputs, _ = golden(name)
    with torch.device("meta"):
        network = getattr(sface, build)()
    network.load_state_dict(sface.convert_official(state), strict=True, assign=True)
    with torch.no_grad():
        got = network.eval()(sface.normalise(inputs["image"]))
    want = outputs["embedding"]
    assert float((got - want).abs().max()) <= 2e-5 * float(want.abs().max())
