"""PETALface: sizes, the masks and order of Swin, losses derived again, converters, golden tensors, TinyFace."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mien.errors import CheckpointError, MediaNotFound, OptionError, ShapeError, TableError, WeightsUnavailable
from mien.nn.count import count_macs, count_parameters
from mien.nn.iqa import CNNIQA, QualityWeight
from mien.nn.lora import adapters
from mien.papers import petalface
from mien.papers.petalface import network as networks
from mien.train.classes import PartialFC
from mien.weights import registered

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {**petalface.SWIN, "rank": 2, "official_init": True}


def on_meta(build: Any, **options: Any) -> nn.Module:
    """A network of which no number is held."""
    with torch.device("meta"):
        made: nn.Module = build(**options)
    return made


# --- Networks --------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_released_networks() -> None:
    assert count_parameters(on_meta(petalface.swin_256new)) == 213_666_768
    assert count_parameters(on_meta(petalface.swin_256new_iqa)) == 215_108_560
    page = (ROOT / "docs" / "papers" / "petalface.md").read_text("utf-8")
    for name, size in (("swin_256new", 120), ("vit_b", 112), ("iresnet_lora", 112)):
        plain = on_meta(getattr(petalface, name))
        told = getattr(petalface, name).__doc__
        parameters, macs = count_parameters(plain), count_macs(plain, (1, 3, size, size))
        assert f"{parameters / 1e6:.1f} M" in told
        assert f"{macs / 1e9:.1f} GMAC" in told
        (line,) = [row for row in page.splitlines() if row.startswith(f"| `{name}`")]
        assert f"{parameters:,}" in line


def test_shares_are_those_of_the_table() -> None:
    """0.53, 0.67 and 0.41 %, where the paper says 0.48."""
    twin = petalface.trainable_share(on_meta(petalface.swin_256new_iqa))
    assert (twin.twins, twin.final, twin.backbone) == (1_130_496, 311_296, 213_666_768)
    rules = [f"{value:.2f}" for value in twin.by_rule.values()]
    assert rules == ["0.67", "0.67", "0.53"]
    single = petalface.trainable_share(on_meta(petalface.swin_256new, adapters="everywhere"))
    assert f"{single.by_rule['all adapters / backbone']:.2f}" == "0.41"
    assert single.trainable == 565_248 + 311_296
    small = petalface.quality_aware(**SMALL, quality="cnniqa")  # the score beside it is not counted
    assert petalface.trainable_share(small).backbone == count_parameters(petalface.swin_256new(**petalface.SWIN))
    assert petalface.trainable_share(small).to_dict()["trainable"] == sum(
        p.numel() for name, p in small.named_parameters() if "lora_" in name
    )


def test_adapters_stand_where_the_paper_puts_them() -> None:
    twin = adapters(petalface.swin_256new_iqa(**SMALL))
    projections = {name for name, layer in twin.items() if layer.twin}
    assert projections == {f"network.layers.{s}.blocks.{b}.attn.qkv" for s in range(3) for b in range(2)}
    assert set(twin) - projections == {"network.feature_layer.2"}
    assert set(adapters(petalface.swin_256new(**{**SMALL, "adapters": "single"}))) == {
        name.removeprefix("network.") for name in projections
    }
    vit = adapters(petalface.vit_b_iqa(**petalface.VIT, rank=2))
    assert {name for name, layer in vit.items() if not layer.twin} == {
        "network.feature_layer.0", "network.feature_layer.2",
    }  # fmt: skip
    assert len(adapters(petalface.iresnet_iqa(**petalface.RESIDUAL))) == 9
    with pytest.raises(OptionError, match="unknown kind of adapters"):
        petalface.swin_256new(**petalface.SWIN, adapters="both")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["swin_256new", "vit_b", "iresnet_lora"])
def test_adapted_networks_begin_at_the_plain_function(name: str) -> None:
    small: Any = {"swin_256new": petalface.SWIN, "vit_b": petalface.VIT, "iresnet_lora": petalface.RESIDUAL}[name]
    plain = getattr(petalface, name)(**small).eval()
    blended = getattr(petalface, name)(**small, adapters="twin").eval()
    blended.network.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 3, small["size"], small["size"])
    with torch.no_grad():
        torch.testing.assert_close(blended(x, torch.tensor([[0.1], [0.9]])), plain(x))
        official = getattr(petalface, name)(**small, adapters="twin", official_init=True).eval()
        official.network.load_state_dict(plain.state_dict(), strict=False)
        assert not torch.allclose(official(x, torch.full((2, 1), 0.5)), plain(x), atol=1e-5)


def test_alpha_selects_branches_of_the_whole_network() -> None:
    torch.manual_seed(0)
    blended = petalface.swin_256new_iqa(**SMALL).eval()
    x = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        low, high = (blended(x, torch.full((2, 1), a)) for a in (0.0, 1.0))
        for layer in adapters(blended).values():
            if layer.twin:
                layer.get_parameter("lora_up2.weight").zero_()
        torch.testing.assert_close(blended(x, torch.zeros(2, 1)), low)
        assert not torch.allclose(blended(x, torch.ones(2, 1)), high)
        torch.testing.assert_close(petalface.merge(blended, 0.0)(x), low, atol=1e-5, rtol=1e-4)


def test_shifted_windows_ignore_what_is_no_neighbour_only_when_masked() -> None:
    side, window, shift = 10, 5, 2
    mask = networks.shift_mask(side, window, shift)
    regions = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    for which, (rows, columns) in enumerate((a, b) for a in (0, 5) for b in (0, 5)):
        for one in range(25):
            for two in range(25):
                apart = any(
                    regions[start + one_at] != regions[start + two_at]
                    for start, one_at, two_at in ((rows, one // 5, two // 5), (columns, one % 5, two % 5))
                )
                assert bool(mask[which, one, two]) == apart
    torch.manual_seed(0)
    plain = petalface.swin_256new(**petalface.SWIN).eval()
    masked = petalface.swin_256new(**petalface.SWIN, masked_shift=True).eval()
    masked.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        assert not torch.allclose(plain(x), masked(x), atol=1e-6)


def test_attention_in_windows_is_that_of_loops() -> None:
    torch.manual_seed(0)
    layer = networks.WindowAttention(8, 2, 3).double()
    nn.init.normal_(layer.relative_position_bias_table)
    nn.init.normal_(layer.qkv.weight)
    nn.init.zeros_(layer.qkv.bias)
    nn.init.eye_(layer.proj.weight)
    nn.init.zeros_(layer.proj.bias)
    x = torch.randn(1, 2, 9, 8, dtype=torch.float64)
    got = layer(x)
    q, k, v = layer.qkv(x).chunk(3, -1)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        for i in range(9):
            bias = [
                layer.relative_position_bias_table[(i // 3 - j // 3 + 2) * 5 + (i % 3 - j % 3 + 2), head]
                for j in range(9)
            ]
            for window in range(2):
                logits = torch.stack([q[0, window, i, part] @ k[0, window, j, part] / 2 + bias[j] for j in range(9)])
                want = logits.softmax(0) @ v[0, window, :, part]
                torch.testing.assert_close(got[0, window, i, part], want)


def test_patches_are_merged_in_the_order_of_the_paper_s_base() -> None:
    layer = networks.PatchMerging(4, 1)
    nn.init.eye_(layer.reduction.weight)
    layer.norm = nn.Identity()  # type: ignore[assignment]
    x = torch.arange(16.0).reshape(1, 16, 1)
    assert layer(x)[0, :, :2].tolist() == [[0, 4], [2, 6], [8, 12], [10, 14]]  # (0, 0) and (1, 0) of each four


def test_patches_that_are_masked_in_training_are_a_learned_token() -> None:
    torch.manual_seed(0)
    vit = petalface.FaceViT(**{**{k: v for k, v in petalface.VIT.items() if k not in ("width", "dim")}, "dim": 32},
                            embedding=8, mask=0.5, drop_path=0.0)  # fmt: skip
    seen: list[Tensor] = []
    vit.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    vit.feature_layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    nn.init.constant_(vit.mask_token, 7.0)  # type: ignore[arg-type]
    vit(torch.randn(3, 3, 36, 36))
    assert seen[0].shape == (3, 8, 32)  # half of the 16 patches
    assert (seen[1].view(3, 16, 32) == 7).all(2).sum(1).tolist() == [8, 8, 8]
    vit.eval()(torch.randn(3, 3, 36, 36))
    assert seen[2].shape == (3, 16, 32)


def test_networks_say_which_input_they_want() -> None:
    with pytest.raises(ShapeError, match="3, 40, 40"):
        petalface.swin_256new(**petalface.SWIN)(torch.rand(1, 3, 48, 48))
    with pytest.raises(ShapeError, match="3, 36, 36"):
        petalface.vit_b(**petalface.VIT)(torch.rand(1, 3, 48, 48))
    with pytest.raises(OptionError, match="cut into windows"):
        petalface.swin_256new(size=112, patch=6)
    with pytest.raises(OptionError, match="unknown backbone"):
        petalface.quality_aware(network="resnet")


def test_a_quality_aware_network_finds_alpha_by_itself() -> None:
    torch.manual_seed(0)
    aware = petalface.quality_aware(**SMALL, quality="sharpness", threshold=0.4).eval()
    x = torch.rand(3, 3, 40, 40) * 2 - 1
    assert isinstance(aware.weight, QualityWeight)
    with torch.no_grad():
        alpha = aware.weight(x)
        torch.testing.assert_close(aware.weight.alpha(torch.tensor([0.4])), torch.tensor([[0.5]]))
        torch.testing.assert_close(aware(x), aware(x, alpha))
        assert not torch.allclose(aware(x), aware(x, alpha + 0.5), atol=1e-5)
    assert float(petalface.quality_aware(**SMALL, quality="brisque").get_buffer("weight.gain")) == pytest.approx(0.01)
    official = petalface.quality_aware(**SMALL, quality="brisque", official_alpha=True)
    assert float(official.get_buffer("weight.gain")) == 1


# --- Losses ----------------------------------------------------------------------------------------------------------


def batch(n: int = 9, d: int = 6, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, d, dtype=torch.float64, generator=generator)
    w = torch.randn(classes, d, dtype=torch.float64, generator=generator)
    return z, w, torch.randint(classes, (n,), generator=generator)


def naive_loss(z: Tensor, w: Tensor, y: Tensor, s: float, m: tuple[float, float, float]) -> tuple[float, Tensor]:
    """Mean loss, and its released gradient for the cosines: s (p - onehot) / B, the margin being in p alone."""
    n = len(z)
    cosines = torch.zeros(n, len(w), dtype=torch.float64)
    p = torch.zeros_like(cosines)
    total = 0.0
    for i in range(n):
        logits = []
        for j in range(len(w)):
            cosine = float(z[i] @ w[j] / z[i].norm() / w[j].norm())
            cosines[i, j] = cosine
            moved = math.cos(m[0] * math.acos(cosine) + m[1]) - m[2] if j == y[i] else cosine
            logits.append(s * moved)
        largest = max(logits)
        weights = [math.exp(v - largest) for v in logits]
        for j, weight in enumerate(weights):
            p[i, j] = weight / sum(weights)
        total -= math.log(max(float(p[i, y[i]]), 1e-30)) / n
    return total, s * (p - F.one_hot(y, len(w))) / n


@pytest.mark.parametrize("m", [(1.0, 0.5, 0.0), (1.0, 0.0, 0.4), (1.2, 0.1, 0.05)])
@pytest.mark.parametrize("s", [8.0, 64.0])
def test_the_released_loss_and_its_gradient(m: tuple[float, float, float], s: float) -> None:
    z, w, y = batch()
    z.requires_grad_()
    w.requires_grad_()
    loss = petalface.margin_loss(z, w, y, scale=s, margins=m)
    want, slope = naive_loss(z.detach(), w.detach(), y, s, m)
    assert float(loss.detach()) == pytest.approx(want, rel=1e-9)
    grads = torch.autograd.grad(loss, (z, w))
    wanted = torch.autograd.grad((F.normalize(z) @ F.normalize(w).T * slope).sum(), (z, w))
    for got, expected in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, expected)


def test_the_class_layer_gives_the_released_loss_with_its_margin() -> None:
    z, w, y = batch()
    layer = PartialFC(6, classes=5, margin=petalface.in_place(1.0, 0.5, 0.0), scale=16.0).double()
    layer.weight.data.copy_(w)
    z.requires_grad_()
    w.requires_grad_()
    got = torch.autograd.grad(layer(z, y), (z, layer.weight))
    loss = petalface.margin_loss(z, w, y, scale=16.0)
    for one, other in zip(got, torch.autograd.grad(loss, (z, w)), strict=True):
        torch.testing.assert_close(one, other)


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def released(adapters: str = "twin") -> tuple[dict[str, Tensor], nn.Module]:
    """A made-up state dict in the authors' layout, and the network it is of."""
    torch.manual_seed(0)
    options = {**petalface.SWIN, "rank": 2, "official_init": True, "adapters": adapters}
    made = petalface.swin_256new(**options).eval()
    inner = made.network if isinstance(made, petalface.Blended) else made
    for name, value in inner.named_buffers():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    state = {name.replace(".lora_", ".trainable_lora_"): value for name, value in inner.state_dict().items()}
    constants = ("relative_position_index", "attn_mask")
    state |= {name: value for name, value in inner.named_buffers() if name.endswith(constants)}
    return state, made


@pytest.mark.parametrize("kind", ["none", "single", "twin"])
def test_a_released_state_becomes_the_same_network(kind: str) -> None:
    state, made = released(kind)
    shape = petalface.shape_of(state)
    assert shape == {**petalface.SWIN, "window": 5, **({"adapters": kind, "rank": 2} if kind != "none" else {})}
    other = petalface.swin_256new(**shape).eval()
    other.load_state_dict(petalface.convert_official(state), strict=True)
    inputs = (torch.randn(2, 3, 40, 40), *([torch.rand(2, 1)] if kind == "twin" else []))
    with torch.no_grad():
        torch.testing.assert_close(other(*inputs), made(*inputs))
    wrapped = {"state_dict_backbone": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}
    again = petalface.convert_official(wrapped)
    assert all(torch.equal(value, again[name]) for name, value in petalface.convert_official(state).items())


def test_a_checkpoint_of_another_kind_is_refused() -> None:
    state, _ = released()
    mask, qkv = "layers.0.blocks.1.attn_mask", "layers.1.blocks.0.attn.qkv"
    for change, gone, message in (
        ({"extra": torch.zeros(1)}, "", r"1 unknown \(extra\)"),
        ({}, "norm.bias", r"1 missing \(norm.bias\)"),
        ({}, "patch_embed.proj.weight", r"1 missing \(patch_embed.proj.weight\)"),
        ({}, f"{qkv}.trainable_lora_up2.weight", rf"1 missing \({qkv}.lora_up2.weight\)"),
        ({f"{qkv}.bias": torch.zeros(3)}, "", rf"of another shape \({qkv}.bias"),
        ({mask: state[mask] + 1}, "", f"{mask} of other values"),
        ({"layers.2.blocks.1.attn_mask": torch.zeros(1, 25, 25)}, "", "1 unknown"),
    ):
        broken = {k: v for k, v in {**state, **change}.items() if k != gone}
        with pytest.raises(CheckpointError, match=message):
            petalface.convert_official(broken)
    with pytest.raises(CheckpointError, match="the tensors that tell its shape"):
        petalface.convert_official({**state, "patch_embed.proj.weight": torch.zeros(3)})


def test_an_imported_twin_network_finds_its_alpha_and_serves_the_verbs(tmp_path: Path, fakes: Any) -> None:
    from mien import embed
    from mien.weights import load

    state, made = released()
    file = tmp_path / "model.pt"
    torch.save(state, file)
    torch.manual_seed(5)
    score = CNNIQA().eval()
    for beside in (False, True):
        if beside:
            torch.save(score.state_dict(), tmp_path / "cnniqa_koniq10k.pth")
        weights = petalface.import_official(file, tmp_path / f"out{beside}.safetensors", name="petal")
        assert ("NOT the paper's CNN-IQA" in weights.notes) != beside
        assert weights.arguments["quality"] == ("cnniqa" if beside else "sharpness")
        with registered(weights):
            loaded = load("petal", device="cpu")
            found = embed(
                fakes.picture((30, 40, 90, 1), (180, 60, 110, 2)), weights="petal", device="cpu", **fakes.align
            )
        assert found.embeddings.shape == (2, 16)
        crops = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
        seen = weights.input.tensor(crops)
        with torch.no_grad():
            if beside:
                alpha = 0.5 + score(seen)[:, None] - 0.5  # the released score sees -1 to 1
            else:
                alpha = 0.5 + petalface.build_quality("sharpness")((seen + 1) / 2)[:, None] - 0.25
            torch.testing.assert_close(loaded(seen), made(seen, alpha), atol=1e-4, rtol=1e-4)
            assert not torch.allclose(loaded(seen), made(seen, 1 - alpha), atol=1e-4)


def test_imports_take_other_scores_and_networks_without_adapters(tmp_path: Path) -> None:
    state, made = released("none")
    torch.save(state, tmp_path / "plain.pt")
    weights = petalface.import_official(tmp_path / "plain.pt", tmp_path / "plain.safetensors")
    assert "adapters" not in weights.notes
    assert (weights.input.size, weights.embedding.dim) == (40, 16)  # type: ignore[union-attr]
    with registered(weights):
        from mien.weights import load

        loaded = load("petalface", device="cpu", fold=False)
        x = torch.randn(2, 3, 40, 40)
        with torch.no_grad():
            torch.testing.assert_close(loaded(x), made(x))
    twin, _ = released()
    torch.save({"state_dict_backbone": twin}, tmp_path / "twin.pt")
    with pytest.raises(WeightsUnavailable, match="LIBSVM"):
        petalface.import_official(tmp_path / "twin.pt", tmp_path / "a.safetensors", quality="brisque")
    with pytest.raises(OptionError, match="unknown quality score"):
        petalface.import_official(tmp_path / "twin.pt", tmp_path / "a.safetensors", quality="x")  # type: ignore[arg-type]
    made_up = petalface.import_official(
        tmp_path / "twin.pt", tmp_path / "a.safetensors", quality="gradient", clamp=True
    )
    assert made_up.arguments["clamp"]
    with pytest.raises(OptionError, match="safetensors"):
        petalface.import_official(tmp_path / "twin.pt", tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="nowhere"):
        petalface.declaration(tmp_path / "nowhere.safetensors")


def test_what_was_trained_here_is_imported_with_its_score(tmp_path: Path) -> None:
    from mien.claims._people import write
    from mien.train.loop import fit
    from mien.train.recipes.adapters import AdaptersRecipe
    from mien.weights import load

    rng = np.random.default_rng(0)
    data = write(tmp_path / "data", rng.integers(0, 256, (8, 24, 24, 3), np.uint8), np.repeat(np.arange(4), 2))
    torch.manual_seed(0)
    torch.save(CNNIQA(channels=3).state_dict(), tmp_path / "score.pth")
    run = AdaptersRecipe.make(
        preset="small", data=data, out=tmp_path / "run", size=24, dim=8, steps=1, batch_size=4, workers=0, held=0.0,
        arguments=("size=24", "patch=6", "width=16", "depth=1", "heads=2"), quality="cnniqa", half=False,
        quality_files=(str(tmp_path / "score.pth"),), tensorboard="no", device="cpu",
    )  # fmt: skip
    result = fit(run)
    weights = petalface.import_official(result.weights, tmp_path / "made.safetensors", name="mine")
    assert "as in training" in weights.notes
    images = torch.rand(3, 3, 24, 24) * 2 - 1
    with registered(weights), torch.no_grad():
        torch.testing.assert_close(
            load("mine", device="cpu")(images), run.trained(result.weights)(images), atol=1e-5, rtol=1e-4
        )
    with pytest.raises(OptionError, match="not mien's own"):
        petalface.trained_network(network="os:system")
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not of a run"):
        petalface.import_official(result.weights, tmp_path / "made.safetensors")


# --- TinyFace --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tinyface(tmp_path: Path) -> Path:
    """The test set's folders and lists with a few grey pictures."""
    from scipy.io import savemat

    tests = tmp_path / "tinyface" / "Testing_Set"
    lists = {"probe": ("Probe", ["1_1.jpg", "2_1.jpg", "2_2.jpg"], [1, 2, 2]),
             "gallery_match": ("Gallery_Match", ["1_9.jpg", "2_9.jpg"], [1, 2])}  # fmt: skip
    for folder, names in (("Gallery_Distractor", ["x.jpg", "y.jpg"]), *((f, n) for f, n, _ in lists.values())):
        (tests / folder).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (20, 20), (99, 99, 99)).save(tests / folder / name)
    for part, (_, names, people) in lists.items():
        key = part.removesuffix("_match")
        cells = np.array([[name] for name in names], dtype=object)
        savemat(tests / f"{part}_img_ID_pairs.mat", {f"{key}_set": cells, f"{key}_ids": np.array(people)[:, None]})
    return tmp_path / "tinyface"


def test_tinyface_is_read(tinyface: Path, tmp_path: Path) -> None:
    found = petalface.read_tinyface(tinyface)
    assert [path.name for path in found.probes] == ["1_1.jpg", "2_1.jpg", "2_2.jpg"]
    assert found.probe_people.tolist() == [1, 2, 2]
    assert found.gallery_people.tolist() == [1, 2]
    assert len(found.distractors) == 2
    (tinyface / "Testing_Set" / "Probe" / "2_1.jpg").rename(tinyface / "Testing_Set" / "Probe" / "2_1.png")
    assert petalface.read_tinyface(tinyface).probes[1].suffix == ".png"  # as aligned pictures are kept
    (tinyface / "Testing_Set" / "Probe" / "2_1.png").unlink()
    with pytest.raises(MediaNotFound, match="2_1"):
        petalface.read_tinyface(tinyface)
    (tinyface / "Testing_Set" / "probe_img_ID_pairs.mat").write_bytes(b"no")
    with pytest.raises(TableError, match="no list of TinyFace"):
        petalface.read_tinyface(tinyface)
    with pytest.raises(MediaNotFound, match="not whole"):
        petalface.read_tinyface(tmp_path)


def test_identification_counts_mates_among_distractors() -> None:
    gallery = np.eye(6)[:3]
    probes = np.array([[1, 0, 0, 0.9, 0, 0], [0, 1, 0, 0, 1.2, 0.0], [0.2, 0.3, 0.1, 0, 0, 0]])
    people = [7, 8, 9]
    found = petalface.identify(probes, people, gallery, people, np.eye(6)[3:], ranks=(1, 2, 3))
    assert found == pytest.approx({"rank1": 1 / 3, "rank2": 2 / 3, "rank3": 1.0})
    alone = petalface.identify(probes, people, gallery, people, ranks=(1, 20))
    assert alone == pytest.approx({"rank1": 2 / 3, "rank20": 1.0})


# --- Golden tensors --------------------------------------------------------------------------------------------------


def answers(golden: Any, name: str, tolerance: float, shape: dict[str, Any]) -> None:
    """Compares every stored output with ours."""
    state, inputs, outputs, _ = golden(name)
    assert petalface.shape_of(state) == shape
    blended = petalface.swin_256new(**petalface.shape_of(state))
    blended.load_state_dict(petalface.convert_official(state), strict=True)
    blended.eval()
    seen: dict[str, Tensor] = {}
    inner = blended.get_submodule("network")
    inner.get_submodule("patch_embed").register_forward_hook(
        lambda _, __, out: seen.__setitem__("patches", out[:, ::57, :48])
    )
    for stage in range(3):
        inner.get_submodule(f"layers.{stage}").register_forward_hook(
            lambda _, __, out, stage=stage: seen.__setitem__(f"stage_{stage + 1}", out.mean(1))
        )
    with torch.no_grad():
        seen["embedding"] = blended(inputs["image"], inputs["alpha"])
    assert seen.keys() == outputs.keys()
    for key, want in outputs.items():
        assert float((seen[key] - want).abs().max()) <= tolerance * float(want.abs().max()), key


@pytest.mark.data
def test_the_narrow_network_answers_as_the_released_code_does(golden: Any) -> None:
    shape = {"dim": 512, "size": 120, "patch": 6, "embed_dim": 48, "depths": (2, 4, 2), "heads": (4, 8, 8),
             "window": 5, "adapters": "twin", "rank": 4}  # fmt: skip
    answers(golden, "petalface-small", 2e-5, shape)


@pytest.mark.slow
@pytest.mark.data
def test_the_released_network_answers_as_the_released_code_does(golden: Any) -> None:
    shape = {"dim": 512, "size": 120, "patch": 6, "embed_dim": 384, "depths": (2, 18, 2), "heads": (8, 16, 16),
             "window": 5, "adapters": "twin", "rank": 8}  # fmt: skip
    answers(golden, "petalface-swin256", 4e-5, shape)


@pytest.mark.data
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_the_loss_and_alpha_are_those_of_the_released_code(golden: Any, dtype: torch.dtype, tolerance: float) -> None:
    _, inputs, outputs, facts = golden("petalface-loss-arcface")
    z = inputs["embeddings"].to(dtype).requires_grad_()
    w = inputs["weight"].to(dtype).requires_grad_()
    layer = PartialFC(32, classes=17, margin=petalface.in_place(1.0, 0.5, 0.0)).to(dtype)
    layer.weight.data.copy_(w)
    for loss, weight in (
        (petalface.margin_loss(z, w, inputs["labels"]), w),
        (layer(z, inputs["labels"]), layer.weight),
    ):
        got = dict(zip(("grad_embeddings", "grad_weight"), torch.autograd.grad(loss, (z, weight)), strict=True))
        for key, value in {"loss": loss.detach(), **got}.items():
            gap = float((value.double() - outputs[key].double()).abs().max())
            assert gap <= tolerance * float(outputs[key].abs().max()), key
    alpha = QualityWeight(nn.Identity(), threshold=facts["threshold"]).alpha(inputs["quality"])
    torch.testing.assert_close(alpha, outputs["alpha"])
