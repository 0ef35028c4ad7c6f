"""UNPG: heads derived again with loops, the released code's answers, checkpoints, templates, and the recipe."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from mien.claims import _people
from mien.errors import CheckpointError, OptionError, ShapeError, ValueRangeError
from mien.nn.count import count_macs, count_parameters
from mien.nn.iresnet import iresnet
from mien.papers import unpg
from mien.train.classes import MagFace
from mien.train.loop import fit
from mien.train.recipes.margin import MarginRecipe
from mien.weights import load, registered

ROOT = Path(__file__).parents[2]


def batch(n: int = 12, d: int = 6, people: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of lengths 5 to 130, class vectors, people, in float64."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(people, (n,), generator=g)
    weight = torch.randn(people, d, generator=g, dtype=torch.float64)
    x = F.normalize(weight[labels] + 0.8 * torch.randn(n, d, generator=g, dtype=torch.float64), dim=1)
    return x * torch.linspace(5, 130, n, dtype=torch.float64)[:, None], weight, labels


# --- Heads -----------------------------------------------------------------------------------------------------------


def naive(x: Tensor, weight: Tensor, labels: Tensor, *, head: str, aux: str, scale: float) -> Tensor:
    """Head and second term, sample by sample, by angles."""
    z = [row / row.norm() for row in x]
    w = [row / row.norm() for row in weight]
    pairs = [z[p] @ z[q] for p, q in itertools.combinations(range(len(z)), 2) if labels[p] != labels[q]]
    ordered = sorted(float(v.detach()) for v in pairs)
    first, third = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    low, high = first - 1.5 * (third - first), third + 1.5 * (third - first)
    kept = [v for v in pairs if low <= float(v.detach()) <= high] if aux == "unpg" else []
    total = x.new_zeros(())
    for i, row in enumerate(z):
        y = int(labels[i])
        angle = torch.acos(row @ w[y])
        length = x[i].norm().clamp(10, 110)
        if head == "cosface":
            own = torch.cos(angle) - 0.5
        elif head == "arcface":
            own = torch.cos(angle + 0.5)
        elif head == "magface":
            m = (0.8 - 0.45) / (110 - 10) * (length - 10) + 0.45
            own = torch.cos(angle + m) if torch.cos(angle) > 0 else torch.cos(angle)
            total = total + 35.0 * (length / 110**2 + 1 / length) / len(z)
        else:
            own = torch.cos(angle)
        others = [row @ w[j] for j in range(len(w)) if j != y] + kept
        total = total + torch.log1p(sum(torch.exp(scale * (v - own)) for v in others)) / len(z)
    return total


@pytest.mark.parametrize("aux", ["unpg", "none"])
@pytest.mark.parametrize("head", ["softmax", "cosface", "arcface", "magface"])
def test_every_head_is_the_naive_one_with_its_gradients(head: Any, aux: Any) -> None:
    x, weight, labels = batch()
    module = unpg.UnifiedHead(6, classes=5, head=head, aux=aux, scale=12.0, guard=False).double()
    found = []
    for how in ("naive", "module"):
        a = x.clone().requires_grad_()
        if how == "naive":
            w = weight.clone().requires_grad_()
            loss = naive(a, w, labels, head=head, aux=aux, scale=12.0)
        else:
            module.load_state_dict({"weight": weight})
            w = module.weight
            loss = module(a, labels)
        found.append((loss.detach(), *torch.autograd.grad(loss, (a, w))))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("aux", ["triplet", "contrastive"])
def test_the_baselines_are_a_second_loss_beside_the_head(aux: Any) -> None:
    x, weight, labels = batch()
    with_term = unpg.UnifiedHead(6, classes=5, aux=aux, scale=12.0).double()
    alone = unpg.UnifiedHead(6, classes=5, aux="none", scale=12.0).double()
    for module in (with_term, alone):
        module.load_state_dict({"weight": weight})
    term = unpg.triplet_term(x, labels) if aux == "triplet" else unpg.contrastive_term(x, labels)
    assert float(term) > 0.01
    torch.testing.assert_close(with_term(x, labels), alone(x, labels) + term)


def test_arcface_with_and_without_guard_differ_beyond_pi_alone() -> None:
    cosine = torch.tensor([0.9, 0.0, -0.5, -0.95, -1.0, 1.0], dtype=torch.float64, requires_grad=True)
    guarded = unpg.loss.arcface(0.5)(cosine)
    plain = unpg.arcface_unguarded(0.5)(cosine)
    torch.testing.assert_close(plain[:3], guarded[:3])
    assert (plain[3:5] > guarded[3:5]).all()
    (gradient,) = torch.autograd.grad(plain.sum(), cosine)
    angle = torch.acos(cosine.detach()[:4])
    torch.testing.assert_close(gradient[:4], torch.sin(angle + 0.5) / torch.sin(angle))  # the true derivative
    assert torch.isfinite(gradient).all()


def test_class_vectors_begin_as_the_code_s_do() -> None:
    torch.manual_seed(0)
    xavier = unpg.UnifiedHead(64, classes=200).weight
    bound = math.sqrt(6 / 264)
    assert float(xavier.detach().abs().max()) == pytest.approx(bound, rel=0.01)
    unit = unpg.UnifiedHead(64, classes=200, head="magface").weight
    torch.testing.assert_close(unit.detach().norm(dim=1), torch.ones(200))


def test_heads_refuse_what_does_not_fit() -> None:
    build: Any = unpg.UnifiedHead
    with pytest.raises(OptionError, match="unknown head"):
        build(4, classes=3, head="sphereface")
    with pytest.raises(OptionError, match="second term"):
        build(4, classes=3, aux="circle")
    with pytest.raises(OptionError, match="out of range"):
        build(4, classes=3, whisker=-1.0)
    with pytest.raises(OptionError, match="another head"):
        build(4, classes=3, head="magface", margin=0.5)
    with pytest.raises(OptionError, match="another head"):
        build(4, classes=3, head="arcface", margin=MagFace())
    with pytest.raises(ShapeError, match="do not fit"):
        build(4, classes=3)(torch.randn(2, 5), torch.tensor([0, 1]))


def test_released_heads_convert_and_magface_s_is_turned() -> None:
    weight = torch.randn(7, 4)
    head = unpg.UnifiedHead(4, classes=7, head="magface")
    for state in ({"head.weight": weight}, {"head.fc.weight": weight.T}):
        head.load_state_dict(unpg.convert_head(state))
        assert torch.equal(head.weight, weight)
    for wrong in ({}, {"weight": weight}, {"head.weight": weight, "head.bias": weight}, {"head.weight": weight[0]}):
        with pytest.raises(CheckpointError, match="released head"):
            unpg.convert_head(wrong)


# --- Networks and checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "millions", "gmac"), [(34, 34.1, 4.5), (100, 65.2, 12.1)])
def test_networks_have_the_size_of_the_released_ones(layers: int, millions: float, gmac: float) -> None:
    with torch.device("meta"):
        network = iresnet(layers)
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.05)
    assert count_macs(network, (1, 3, 112, 112)) / 1e9 == pytest.approx(gmac, abs=0.05)


def test_a_face_and_its_mirror_image_are_joined() -> None:
    torch.manual_seed(0)
    network = unpg.iresnet_with_mirror(layers=34, width=0.0625, size=32, dim=8, depths=(1, 1, 1, 1)).eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        both = network(x)
        want = torch.cat([network.network(x), network.network(torch.flip(x, (3,)))], 1)
        torch.testing.assert_close(both, want)
        torch.testing.assert_close(network(x.flip(3)), torch.cat([both[:, 8:], both[:, :8]], 1))


def test_pixels_are_normalised_as_imagenet_s() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    seen = unpg.INPUT.tensor(crop)
    want = torch.from_numpy(crop).permute(0, 3, 1, 2) / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    want = want / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(seen, want, rtol=1e-5, atol=1e-5)
    from mien.nn.standardise import STANDARDS

    torch.testing.assert_close(STANDARDS["imagenet"](torch.from_numpy(crop)), want, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    """A state dict of the released layout, 34 layers, 4 numbers, most of it one number shared, to be quick."""
    with torch.device("meta"):
        shapes = iresnet(34, dim=4).state_dict()
    torch.manual_seed(0)
    state = {}
    for name, value in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif value.ndim == 4:
            state[name] = torch.randn(value.shape) / math.sqrt(value[0].numel())
        elif name.endswith(("running_var", "weight")):
            state[name] = torch.rand(value.shape) * (0.01 if value.ndim == 2 else 1.0) + 0.5 * (value.ndim == 1)
        else:
            state[name] = 0.1 * torch.randn(value.shape)
    return state


def test_the_converter_is_strict(released: dict[str, Tensor]) -> None:
    assert unpg.convert_official(released).keys() == released.keys()
    wrapped = {f"module.{name}": value for name, value in released.items()}
    assert all(torch.equal(v, released[k]) for k, v in unpg.convert_official(wrapped).items())
    bare = {name: value for name, value in released.items() if not name.endswith("num_batches_tracked")}
    assert unpg.convert_official(bare).keys() == released.keys()
    for change, told in (
        ({"layer2.1.bn3.weight": None}, "1 missing"),
        ({"head.weight": torch.zeros(2, 2)}, "1 unknown"),
        ({"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, "another shape"),
        ({"epoch": 19}, "no state dict"),
        ({"layer4.3.bn1.weight": torch.zeros(512)}, "not the tensors of an IResNet"),
    ):
        broken = {name: value for name, value in {**released, **change}.items() if value is not None}
        with pytest.raises(CheckpointError, match=told):
            unpg.convert_official(broken)


def test_state_dicts_are_imported_and_every_verb_can_load_them(tmp_path: Path, released: dict[str, Tensor]) -> None:
    torch.save(released, tmp_path / "r34.state.pt")
    weights = unpg.import_official(tmp_path / "r34.state.pt", tmp_path / "out.safetensors", name="unpg-r34")
    assert weights.embedding is not None
    assert (weights.embedding.dim, weights.embedding.flip) == (8, False)
    assert dict(weights.arguments) == {"layers": 34, "dim": 4}
    assert weights.input == unpg.INPUT
    assert not weights.permissive
    network = iresnet(34, dim=4)
    network.load_state_dict(released)
    network.eval()
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    with registered(weights), torch.no_grad():
        seen = weights.input.tensor(crops)
        got = load("unpg-r34", device="cpu")(seen)
    with torch.no_grad():
        want = torch.cat([network(seen), network(seen.flip(3))], 1)
    torch.testing.assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=1e-4)

    save_file(released, tmp_path / "r34.safetensors")
    for mirror, dim, flip in (("mean", 4, True), ("none", 4, False)):
        other = unpg.import_official(tmp_path / "r34.safetensors", tmp_path / "o.safetensors", mirror=mirror)
        assert other.embedding is not None
        assert (other.embedding.dim, other.embedding.flip, other.build) == (dim, flip, "mien.nn.iresnet:iresnet")
    options: Any = {"mirror": "twice"}
    with pytest.raises(OptionError, match="mirror"):
        unpg.import_official(tmp_path / "r34.safetensors", tmp_path / "o.safetensors", **options)
    with pytest.raises(OptionError, match="safetensors"):
        unpg.import_official(tmp_path / "r34.safetensors", tmp_path / "o.pt")
    with pytest.raises(CheckpointError, match="nowhere"):
        unpg.declaration(tmp_path / "nowhere.safetensors")


def test_pickled_modules_are_refused_with_the_line_that_helps(tmp_path: Path) -> None:
    checkpoint = {"epoch": 19, "backbone": nn.Linear(2, 2), "optimizer": {}, "headandloss": None}
    torch.save(checkpoint, tmp_path / "face.r100.cos.unpg.wisk1.5.pt")
    with pytest.raises(CheckpointError, match="pickled modules") as refused:
        unpg.read_official(tmp_path / "face.r100.cos.unpg.wisk1.5.pt")
    assert "['backbone'].state_dict()" in str(refused.value)
    line = unpg.CONVERSION.format(file=tmp_path / "face.r100.cos.unpg.wisk1.5.pt", out=tmp_path / "plain.pt")
    assert line.startswith('python -c "')
    exec(line.removeprefix('python -c "').removesuffix('"'), {})  # the line that users are told to run
    assert unpg.read_official(tmp_path / "plain.pt").keys() == {"weight", "bias"}
    (tmp_path / "damaged.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"damaged") as refused:
        unpg.read_official(tmp_path / "damaged.pt")
    assert "pickled modules" not in str(refused.value)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_gives_its_tensors_and_runs_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = iresnet(34, dim=4, size=16, width=0.02, depths=(1, 1, 1, 1)).eval()
    torch.jit.trace(network, torch.randn(1, 3, 16, 16)).save(str(tmp_path / "net.pt"))
    assert unpg.is_torchscript(tmp_path / "net.pt")
    found = unpg.read_official(tmp_path / "net.pt")
    want = network.state_dict()
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], value) for name, value in want.items())
    torch.save(want, tmp_path / "state.pt")
    assert not unpg.is_torchscript(tmp_path / "state.pt")


@pytest.mark.parametrize(
    "pickled",
    [
        b"cposix\nsystem\n(S'touch ran'\ntR.",  # the classic
        b"ctorch\nload\n(S'other.pt'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"garbage",
        b"",
    ],
)
def test_hostile_archives_are_refused(tmp_path: Path, pickled: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("bad.pt", "w") as archive:
        archive.writestr("net/data.pkl", pickled)
        archive.writestr("net/code/__torch__.py", "")
    with pytest.raises(CheckpointError, match="TorchScript"):
        unpg.read_official(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


# --- Protocol --------------------------------------------------------------------------------------------------------


def test_templates_sum_media_of_vectors_as_they_come() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 5)) * rng.uniform(1, 30, (9, 1))
    template, media = [0, 0, 0, 0, 1, 1, 1, 2, 2], [3, 3, 3, 8, 1, 2, 2, 3, 3]
    pooled = unpg.ijb_templates(x, template, media)
    for row in range(3):
        total = np.zeros(5)
        for medium in {m for t, m in zip(template, media, strict=True) if t == row}:
            total += x[[t == row and m == medium for t, m in zip(template, media, strict=True)]].mean(0)
        np.testing.assert_allclose(pooled.vectors[row], total / np.linalg.norm(total), atol=1e-6)


def test_the_nearest_point_of_the_curve_counts() -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    same = [1, 0, 1, 0, 1, 0]
    # (FAR, TAR): (0, 1/3), (1/3, 1/3), (1/3, 2/3), (2/3, 2/3), (2/3, 1), (1, 1)
    found = unpg.tar_at_nearest_far(scores, same, (0.0, 0.2, 0.3, 0.6))
    np.testing.assert_allclose(found, [1 / 3, 2 / 3, 2 / 3, 1])
    with pytest.raises(ValueRangeError, match="both kinds"):
        unpg.tar_at_nearest_far([0.1, 0.2], [True, True])


# --- The recipe ------------------------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    means = rng.integers(40, 216, (12, 1, 1, 1, 3))
    crops = np.clip(means + rng.normal(0, 20, (12, 4, 32, 32, 3)), 0, 255).astype(np.uint8).reshape(-1, 32, 32, 3)
    return _people.write(tmp_path / "people", crops, np.repeat(np.arange(12), 4))


@pytest.fixture
def tiny(people: Path) -> Callable[..., MarginRecipe]:
    def make(out: Path, preset: str = "unpg", **options: Any) -> MarginRecipe:
        small: dict[str, Any] = {
            "data": str(people), "out": str(out), "network": "mien.claims._small:four_convolutions",
            "arguments": ("width=0.25",), "dim": 8, "size": 32, "scaled": 32, "batch_size": 16, "steps": 3,
            "workers": 0, "threads": 1, "precision": "32-true", "tensorboard": "no", "half": False, "device": "cpu",
            "warmup": 1, "save_every": 10, "log_every": 1,
        }  # fmt: skip
        return MarginRecipe.make(preset=preset, **{**small, **options})

    return make


def test_presets_are_the_paper_s_numbers() -> None:
    for name, head in (("unpg", "arcface"), ("unpg_cosface", "cosface"), ("unpg_magface", "magface")):
        made = MarginRecipe.make(preset=name, data="people", out="runs/x")
        assert (made.head, made.negatives, made.whisker, made.scale, made.standardise) == (
            head, "unpg", 1.5, 64.0, "imagenet",
        )  # fmt: skip
        assert (made.optimizer, made.lr, made.weight_decay, made.batch_size) == ("sgd", 0.1, 5e-4, 512)
        assert made.steps * 512 / 20 == pytest.approx(5.8e6, rel=0.01)
        assert made.warmup / made.steps == pytest.approx(3 / 20, rel=0.01)
    kface = MarginRecipe.make(preset="unpg_kface", data="people", out="runs/x")
    assert (kface.network, kface.whisker) == ("mien.nn.iresnet:iresnet34", 1.0)
    for options in ({"negatives": "unpg", "head": "sface", "margin": None}, {"whisker": -1.0}, {"negatives": "many"}):
        with pytest.raises(OptionError):
            MarginRecipe.make(preset="unpg", data="people", out="runs/x", **options)


@pytest.mark.parametrize("head", ["softmax", "arcface", "magface"])
def test_the_recipe_s_loss_is_that_of_the_head(head: Any, tmp_path: Path, tiny: Callable[..., MarginRecipe]) -> None:
    x, _, _ = batch(n=16, d=8)
    labels = torch.arange(16) % 12
    made = tiny(tmp_path / "run", head=head, margin=0.3 if head == "arcface" else None, scale=16.0)
    layer = made.class_layer().double()
    m: Any = {"arcface": 0.3}.get(head)
    reference = unpg.UnifiedHead(8, classes=12, head=head, scale=16.0, margin=m).double()
    reference.load_state_dict({"weight": layer.weight.detach()})
    found = []
    for module in (layer, reference):
        a = x.clone().requires_grad_()
        loss = module(a, labels)
        found.append((loss.detach(), *torch.autograd.grad(loss, (a, module.weight))))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)


def test_a_run_goes_on_from_another_s_network_and_class_vectors(
    tmp_path: Path, tiny: Callable[..., MarginRecipe]
) -> None:
    first = tiny(tmp_path / "first", negatives="none")
    fit(first)
    vectors = first.classes.weight.detach().clone()
    more = tiny(
        tmp_path / "more", init=str(tmp_path / "first" / "weights.safetensors"), init_classes=str(tmp_path / "first"),
        steps=1, lr=1e-9, warmup=0,
    )  # fmt: skip
    result = fit(more)
    torch.testing.assert_close(more.classes.weight.detach(), vectors, atol=1e-7, rtol=1e-5)
    assert result.weights.is_file()
    with pytest.raises(CheckpointError, match="no class vectors"):
        tiny(tmp_path / "lost", init_classes=str(tmp_path)).class_layer()


@pytest.mark.parametrize("second", ["triplet", "contrastive"])
def test_the_recipe_adds_the_baselines_second_loss(
    second: str, tmp_path: Path, tiny: Callable[..., MarginRecipe]
) -> None:
    made = tiny(tmp_path / "run", negatives=second)
    result = fit(made)
    rows = (Path(made.out) / "log.csv").read_text("utf-8")
    assert "second" in rows
    assert result.steps == 3


# --- Golden tensors --------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("name", "aux"), [("unpg-loss-arcface", "unpg"), ("unpg-loss-arcface-only", "none")])
def test_the_loss_answers_as_the_released_code_does(
    golden: Any, name: str, aux: Any, dtype: torch.dtype, tolerance: float
) -> None:
    _, inputs, outputs, _ = golden(name)
    head = unpg.UnifiedHead(32, classes=15, head="arcface", aux=aux, guard=False).to(dtype)
    head.load_state_dict(unpg.convert_head({"head.weight": inputs["weight"].to(dtype)}))
    x, labels = inputs["embeddings"].to(dtype).requires_grad_(), inputs["labels"]
    loss = head(x, labels)
    by_x, by_weight = torch.autograd.grad(loss, (x, head.weight))
    kept = unpg.box_whisker(unpg.negative_pairs(x, labels), 1.5).sort().values
    found = {
        "loss": loss, "grad_embeddings": by_x, "grad_weight": by_weight,
        "cosines_with_margin": head.cosines(x, labels), "negatives_kept": kept,
    }  # fmt: skip
    for key, want in outputs.items():
        assert found[key].shape == want.shape
        assert float((found[key].detach() - want).abs().max()) <= tolerance * float(want.abs().max()), key


@pytest.mark.data
def test_the_network_answers_as_the_released_code_does(golden: Any) -> None:
    state, inputs, outputs, _ = golden("unpg-iresnet34")
    network = iresnet(unpg.layers_of(state))
    network.load_state_dict(unpg.convert_official(state), strict=True)
    network.eval()
    seen: dict[str, Tensor] = {}
    for ours, theirs in (("prelu", "stem"), *((f"layer{k}", f"layer{k}") for k in range(1, 5))):
        network.get_submodule(ours).register_forward_hook(
            lambda _, __, out, name=theirs: seen.__setitem__(name, out.mean((2, 3)))
        )
    with torch.no_grad():
        seen["embedding"] = network(inputs["image"])
    assert seen.keys() == outputs.keys()
    for name, want in outputs.items():
        assert float((seen[name] - want).abs().max()) <= 4e-5 * float(want.abs().max()), name
