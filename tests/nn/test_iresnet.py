"""IR, IResNet and MobileFaceNet: sizes, keys, what the options do; golden tensors of both released layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mien.errors import OptionError
from mien.nn import iresnet
from mien.nn.count import count_parameters
from mien.nn.iresnet import IR_DEPTHS, IResNetUnit, IRUnit
from mien.nn.mobilefacenet import EPS, LAST_EPS, mobilefacenet

ROOT = Path(__file__).parents[2]


def on_meta(build: Any, **options: Any) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = build(**options)
    return network


@pytest.mark.parametrize(
    ("build", "millions"),
    [
        (iresnet.ir_50, 43.6), (iresnet.ir_101, 65.1), (iresnet.iresnet18, 24.0), (iresnet.iresnet34, 34.1),
        (iresnet.iresnet50, 43.6), (iresnet.iresnet100, 65.2),
    ],
)  # fmt: skip
def test_parameters_are_those_that_are_published(build: Any, millions: float) -> None:
    assert round(count_parameters(on_meta(build)) / 1e6, 1) == millions


def test_keys_are_those_of_the_released_layouts() -> None:
    ir = set(on_meta(iresnet.ir_50).state_dict())
    assert {"input_layer.0.weight", "input_layer.2.weight", "output_layer.3.bias", "output_layer.4.running_var"} <= ir
    assert {name.split(".")[1] for name in ir if name.startswith("body.")} == {str(n) for n in range(24)}
    shortcuts = {name.split(".")[1] for name in ir if "shortcut_layer" in name}
    assert shortcuts == {"3", "7", "21"}  # where the channels change; the first unit picks pixels
    assert sum(IR_DEPTHS[101]) == 49
    insight = set(on_meta(iresnet.iresnet34).state_dict())
    assert {"conv1.weight", "bn1.weight", "prelu.weight", "bn2.bias", "fc.weight", "features.running_mean"} <= insight
    for stage, depth in enumerate(iresnet.DEPTHS[34], 1):
        assert f"layer{stage}.{depth - 1}.bn3.weight" in insight
        assert f"layer{stage}.{depth}.bn3.weight" not in insight
        assert f"layer{stage}.0.downsample.1.weight" in insight
        assert f"layer{stage}.1.downsample.0.weight" not in insight


def test_units_are_their_formulas() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    for unit, stride in ((IRUnit(4, 4, 2), 2), (IResNetUnit(4, 4, 1), 1)):
        with torch.no_grad():
            for branch in unit.modules():
                if isinstance(branch, nn.Conv2d):
                    branch.weight.zero_()
        torch.testing.assert_close(unit.eval()(x), x[:, :, ::stride, ::stride])  # the shortcut is all that is left
    unit = IRUnit(4, 8, 2).eval()
    bn, first, act, second, last = unit.res_layer
    want = last(second(act(first(bn(x))))) + unit.shortcut_layer(x)
    torch.testing.assert_close(unit(x), want)
    assert want.shape == (2, 8, 3, 3)
    assert (want < 0).any()  # no activation after the sum
    assert (first.stride, second.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize("size", [32, 48, 50])
def test_other_sizes_and_widths(size: int) -> None:
    small = {"dim": 8, "width": 0.125, "size": size}
    for network in (iresnet.ir_50(depths=(1, 1, 1, 1), **small), iresnet.iresnet(18, **small)):
        assert network.eval()(torch.zeros(2, 3, size, size)).shape == (2, 8)


def test_dropout_is_before_the_linear_layer() -> None:
    torch.manual_seed(0)
    network = iresnet.iresnet(18, dim=8, width=0.125, size=32, dropout=1.0)
    network.features.eval()
    out = network(torch.randn(3, 3, 32, 32))
    torch.testing.assert_close(out, (network.fc.bias / (1 + network.features.eps) ** 0.5).expand(3, -1))


def test_what_cannot_be_built() -> None:
    with pytest.raises(OptionError, match="no such network"):
        iresnet.iresnet(51)
    with pytest.raises(OptionError, match="no unit"):
        iresnet.ir_50(depths=(1, 0, 1, 1))
    with pytest.raises(OptionError, match="out of range"):
        iresnet.ir_50(size=0)
    with pytest.raises(OptionError, match="multiple of 16"):
        mobilefacenet(size=100)


def test_mobilefacenet_is_as_published() -> None:
    network = on_meta(mobilefacenet)
    assert count_parameters(network) == 1_201_024
    eps = [layer.eps for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert set(eps) == {EPS}
    assert network.fc1.eps == LAST_EPS
    keys = set(network.state_dict())
    assert {"conv_2_dw.relu.weight", "res_4.model.block5.conv_proj.batchnorm.weight", "pre_fc1.bias"} <= keys
    assert not [key for key in keys if "conv_proj.relu" in key or "conv_6dw7_7.relu" in key]


# --- Golden tensors --------------------------------------------------------------------------------------------------


def agrees(network: nn.Module, state: dict[str, Tensor], x: Tensor, want: dict[str, Tensor], places: Any) -> None:
    network.load_state_dict(state, strict=True)
    seen: dict[str, Tensor] = {}
    for name, place in places.items():
        network.get_submodule(place).register_forward_hook(
            lambda _, __, out, name=name: seen.__setitem__(name, out.mean((2, 3)))
        )
    with torch.no_grad():
        seen["embedding"] = network.eval()(x)
    assert seen.keys() == want.keys()
    for name, value in want.items():
        assert float((seen[name] - value).abs().max()) <= 2e-5 * float(value.abs().max()), name


@pytest.mark.data
def test_iresnet_34_answers_as_the_released_code_does(golden: Any) -> None:
    state, inputs, outputs, _ = golden("unpg-iresnet34")
    places = {"stem": "prelu", **{f"layer{n}": f"layer{n}" for n in range(1, 5)}}
    agrees(iresnet.iresnet34(), state, inputs["image"], outputs, places)


@pytest.mark.data
def test_ir_50_answers_as_the_released_code_does(golden: Any) -> None:
    state, inputs, outputs, _ = golden("sface-ir50")
    places = {"input_layer": "input_layer", "stage_1": "body.2", "stage_2": "body.6", "stage_3": "body.20",
              "stage_4": "body.23"}  # fmt: skip
    agrees(iresnet.ir_50(), state, (inputs["image"] - 127.5) * 0.078125, outputs, places)


@pytest.mark.data
def test_mobilefacenet_answers_as_the_released_code_does(golden: Any) -> None:
    state, inputs, outputs, _ = golden("sface-mobilefacenet")
    places = {name: name for name in ("conv_2_dw", "res_3", "res_4", "res_5")}
    agrees(mobilefacenet(), state, (inputs["image"] - 127.5) * 0.078125, outputs, places)
