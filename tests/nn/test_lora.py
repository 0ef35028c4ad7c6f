"""Adapters: what they compute in plain matrices, how they are put in, frozen, merged, and given alpha."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError
from mien.nn.iresnet import iresnet
from mien.nn.lora import Blended, LoRAConv2d, LoRALinear, adapt, adapters, blending, freeze, merge

ALPHA = torch.tensor([[0.2], [0.9], [1.4]], dtype=torch.float64)  # it is not clamped


def stirred(layer: nn.Module, seed: int = 0) -> nn.Module:
    """All numbers anew, so that no branch is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return layer


def linear(**options: object) -> LoRALinear:
    layer = stirred(LoRALinear(5, 7, rank=3, scale=0.7, **options).double().eval())  # type: ignore[arg-type]
    assert isinstance(layer, LoRALinear)
    return layer


def naive(layer: LoRALinear, x: Tensor, alpha: Tensor) -> Tensor:
    """y = W x + b + s B1 A1 (1 - a) x + s B2 A2 a x, vector by vector."""
    out = []
    each = len(x) // len(alpha)
    down1, up1 = layer.lora_down.weight, layer.lora_up.weight
    down2, up2 = layer.get_parameter("lora_down2.weight"), layer.get_parameter("lora_up2.weight")
    assert isinstance(down1, Tensor)
    assert isinstance(up1, Tensor)
    for row, value in enumerate(x):
        a = alpha[row // each, 0]
        vectors = value.reshape(-1, 5)
        out.append(
            torch.stack(
                [
                    layer.weight @ v + layer.bias + 0.7 * up1 @ (down1 @ ((1 - a) * v)) + 0.7 * up2 @ (down2 @ (a * v))
                    for v in vectors
                ]
            ).reshape(*value.shape[:-1], 7)
        )
    return torch.stack(out)


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (6, 5), (12, 2, 5)])
def test_a_twin_layer_and_its_gradients_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    layer = linear(twin=True)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(*shape[:-1], 7, dtype=torch.float64)
    grads = []
    for compute in (lambda: layer(x), lambda: naive(layer, x, ALPHA)):
        layer.zero_grad()
        with blending(ALPHA):
            y = compute()
        (y * weights).sum().backward()
        grads.append((y.detach(), {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(grads[0][0], grads[1][0])
    assert grads[0][1].keys() == dict(layer.named_parameters()).keys()
    for name, grad in grads[0][1].items():
        torch.testing.assert_close(grad, grads[1][1][name])


def test_alpha_0_and_1_select_a_branch_and_equal_branches_are_one() -> None:
    layer = linear(twin=True)
    x = torch.randn(3, 5, dtype=torch.float64)
    plain = F.linear(x, layer.weight, layer.bias)
    for alpha, n in ((0.0, ""), (1.0, "2")):
        with blending(torch.full((3, 1), alpha, dtype=torch.float64)):
            got = layer(x)
        product = layer.get_parameter(f"lora_up{n}.weight") @ layer.get_parameter(f"lora_down{n}.weight")
        torch.testing.assert_close(got, plain + 0.7 * x @ product.T)
    single = linear()
    state = single.state_dict()
    layer.load_state_dict({**state, **{k.replace(".weight", "2.weight") if "lora" in k else k: state[k] for k in state},
                           "lora_down2.weight": state["lora_down.weight"],
                           "lora_up2.weight": state["lora_up.weight"]}, strict=False)  # fmt: skip
    with blending(ALPHA):
        torch.testing.assert_close(layer(x), single(x))


def test_each_branch_has_dropout_of_its_own_and_only_in_training() -> None:
    layer = linear(twin=True, dropout=0.5)
    x = torch.randn(3, 5, dtype=torch.float64)
    with blending(ALPHA):
        assert torch.equal(layer(x), layer(x))
        layer.train()
        torch.manual_seed(0)
        first = layer(x)
        assert not torch.equal(first, layer(x))
        layer.eval()
        mean = layer(x)
        layer.train()
        many = torch.stack([layer(x) for _ in range(4000)]).mean(0)
    assert (many - mean).abs().max() < 0.15 * mean.abs().max()


def test_a_convolution_s_branch_is_a_convolution_and_merges() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    layer = stirred(LoRAConv2d.around(plain, rank=2, twin=True, scale=1.5).double().eval())
    assert isinstance(layer, LoRAConv2d)
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    with blending(ALPHA):
        got = layer(x)
    want = F.conv2d(x, layer.weight, layer.bias, 2, 1)
    for n, share in (("", 1 - ALPHA), ("2", ALPHA)):
        low = F.conv2d(share[:, :, None, None] * x, layer.get_parameter(f"lora_down{n}.weight"), None, 2, 1)
        want = want + 1.5 * F.conv2d(low, layer.get_parameter(f"lora_up{n}.weight"))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(layer.merged(0.9)(x[1:2]), got[1:2])
    with pytest.raises(OptionError, match="takes no adapter"):
        LoRAConv2d.around(nn.Conv2d(4, 4, 3, groups=2), rank=2)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 8), nn.ReLU(), nn.Linear(8, 5, bias=False))


def test_a_network_is_adapted_in_place_keeps_its_tensors_and_begins_as_it_was() -> None:
    plain = network().eval()
    changed = copy.deepcopy(plain)
    kept = changed[2].weight
    assert adapt(changed, twin=r"\d", single="4", rank=2) == ("0", "2", "4")
    assert [layer.twin for layer in adapters(changed).values()] == [True, True, True]  # `twin` goes first
    assert changed[2].weight is kept
    assert changed.state_dict().keys() >= plain.state_dict().keys()
    x, alpha = torch.randn(3, 3, 8, 8), ALPHA.float()
    torch.testing.assert_close(Blended(changed)(x, alpha), plain(x))
    changed[0].restart(up_std=0.5, down_std=0.5)  # type: ignore[operator]
    assert not torch.allclose(Blended(changed)(x, alpha), plain(x))
    with pytest.raises(OptionError, match="no layer of the network"):
        adapt(network(), twin="nothing")
    with pytest.raises(OptionError, match="adapter already"):
        adapt(changed, single="0")
    with pytest.raises(OptionError, match="out of range"):
        adapt(network(), single="0", rank=0)


def test_only_branches_learn_when_the_rest_is_frozen() -> None:
    changed = network()
    adapt(changed, twin="2", single="4", rank=2)
    freeze(changed)
    learn = {name for name, p in changed.named_parameters() if p.requires_grad}
    assert learn == {"2.lora_down.weight", "2.lora_up.weight", "2.lora_down2.weight", "2.lora_up2.weight",
                     "4.lora_down.weight", "4.lora_up.weight"}  # fmt: skip
    before = {name: p.clone() for name, p in changed.named_parameters()}
    optimiser = torch.optim.SGD([p for p in changed.parameters() if p.requires_grad], 0.5)
    for _ in range(2):  # in the first step A has no gradient, since B is zero
        optimiser.zero_grad()
        Blended(changed)(torch.randn(3, 3, 8, 8), ALPHA.float()).square().sum().backward()
        optimiser.step()
    moved = {name for name, p in changed.named_parameters() if not torch.equal(p, before[name])}
    assert moved == learn


@pytest.mark.parametrize("alpha", [0.0, 0.35, 1.2])
def test_a_merged_network_is_plain_and_gives_the_same_for_its_alpha(alpha: float) -> None:
    changed = network()
    adapt(changed, twin="0|2", single="4", rank=2)
    blended = Blended(stirred(changed.double()).eval())
    merged = merge(blended, alpha)
    assert not adapters(merged)
    assert merged.state_dict().keys() == network().state_dict().keys()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(merged(x), blended(x, torch.full((2, 1), alpha, dtype=torch.float64)))
    assert len(adapters(blended)) == 3  # the original is left alone
    with pytest.raises(OptionError, match="merged for an alpha"):
        merge(blended)


def test_alpha_must_be_there_and_be_one_number_for_each_picture() -> None:
    changed = network()
    adapt(changed, twin="2", rank=2)
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(OptionError, match="needs to know alpha"):
        Blended(changed)(x)
    with pytest.raises(ShapeError, match="one number"):
        Blended(changed)(x, torch.rand(2))

    class Half(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 1), 0.5)

    inside = Blended(changed, Half())
    torch.testing.assert_close(inside(x), inside(x, torch.full((2, 1), 0.5)))


def test_two_threads_share_a_network_without_mixing_their_alphas() -> None:
    changed = network()
    adapt(changed, twin="2", rank=2)
    stirred(changed)
    blended = Blended(changed).eval()
    x = torch.randn(2, 3, 8, 8)
    alphas = [torch.full((2, 1), float(k)) for k in range(4)]
    with torch.no_grad():
        want = [blended(x, alpha) for alpha in alphas]
    wrong: list[int] = []

    def work(k: int) -> None:
        with torch.no_grad():
            wrong.extend(k for _ in range(50) if not torch.equal(blended(x, alphas[k]), want[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_residual_network_takes_adapters_by_name() -> None:
    torch.manual_seed(0)
    residual = iresnet(18, dim=8, size=32, width=0.125, depths=(1, 1, 1, 1)).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = residual(x)
        names = adapt(residual, twin=r"layer\d\.\d\.conv\d", single="fc", rank=2)
        assert len(names) == 9
        torch.testing.assert_close(Blended(residual)(x, torch.rand(2, 1)), before)
        for layer in adapters(residual).values():
            layer.restart(up_std=0.1, down_std=0.1)
        alpha = torch.tensor([[0.1], [0.1]])
        got = Blended(residual)(x, alpha)
        assert not torch.allclose(got, before)
        torch.testing.assert_close(merge(residual, 0.1)(x), got, atol=1e-5, rtol=1e-4)
