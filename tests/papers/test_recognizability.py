"""Recognizability: index and losses derived again by loops in float64, the centre, networks and their halves, verbs."""

from __future__ import annotations

import json
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
from mien.nn.embedder import embedder_small
from mien.nn.iresnet import ir_50, iresnet18
from mien.nn.mobilefacenet import mobilefacenet
from mien.papers import recognizability as paper
from mien.train.recipes.recognizability import Objective, RecognizabilityRecipe, Trainee
from mien.weights import imported
from mien.weights import load as load_weights

SMALL: dict[str, Any] = {"network": "mien.nn.iresnet:iresnet18", "arguments": {"width": 0.25, "size": 32}, "dim": 8}


def sphere(n: int = 9, people: int = 5, d: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings (n, d) of any length, class vectors, labels and a centre, in float64."""
    g = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(n, d, generator=g, dtype=torch.float64)
    w = F.normalize(torch.randn(people, d, generator=g, dtype=torch.float64), dim=1)
    u = F.normalize(torch.randn(d, generator=g, dtype=torch.float64), dim=0)
    return z, w, torch.randint(people, (n,), generator=g), u


def cos(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


# --- The index -------------------------------------------------------------------------------------------------------


def naive_index(z: Tensor, w: Tensor, y: int, u: Tensor, form: str) -> float:
    """One face at a time, as the description has it."""
    own = cos(z, w[y])
    other = max(cos(z, w[j]) for j in range(len(w)) if j != y)
    d_p, d_n, d_ui = 1 - own, 1 - other, 1 - cos(z, u)
    return {
        "tanh": math.tanh(d_ui * d_n / (d_p + 1e-6)),
        "cr_fiqa": own / (other + 1 + 1e-6) * d_ui,
        "slacked": 1 / (1 + math.exp(-8 * own * (own - other))),
    }[form]


@pytest.mark.parametrize("form", tuple(paper.RI_FORMS))
def test_the_index_is_that_of_loops_and_has_no_gradient(form: Any) -> None:
    z, w, y, u = sphere()
    unit = F.normalize(z, dim=1).requires_grad_()
    index = paper.recognizability_index(paper.proximities(unit @ w.T, y, unit @ u), form=form)
    want = [naive_index(z[i], w, int(y[i]), u, form) for i in range(len(z))]
    torch.testing.assert_close(index, torch.tensor(want, dtype=torch.float64))
    assert not index.requires_grad


def test_the_own_class_is_never_the_nearest_other_even_where_it_is_the_nearest() -> None:
    cosines = torch.tensor([[0.9, 0.2, -0.5], [-0.9, -0.95, -0.99]])
    d = paper.proximities(cosines, torch.tensor([0, 0]), torch.zeros(2))
    torch.testing.assert_close(d.other, 1 - torch.tensor([0.2, -0.95]))
    torch.testing.assert_close(d.own, 1 - torch.tensor([0.9, -0.9]))


@pytest.mark.parametrize("form", ["tanh", "cr_fiqa"])
def test_the_index_rises_and_falls_as_the_paper_says(form: Any) -> None:
    def told(own: float, other: float, centre: float) -> float:
        d = paper.Proximities(*(torch.tensor([x], dtype=torch.float64) for x in (own, other, centre)))
        return float(paper.recognizability_index(d, form=form))

    for own in (0.2, 0.5, 0.8):
        assert told(own, 0.9, 0.8) > told(own + 0.1, 0.9, 0.8)
        assert told(own, 0.9, 0.8) < told(own, 1.0, 0.8)
        assert told(own, 0.9, 0.8) < told(own, 0.9, 0.9)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="do not fit"):
        paper.proximities(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), torch.zeros(3))
    with pytest.raises(ShapeError, match="do not fit"):
        paper.proximities(torch.zeros(3, 4), torch.zeros(3, dtype=torch.long), torch.zeros(2))
    with pytest.raises(OptionError, match="unknown form"):
        paper.recognizability_index(paper.Proximities(*torch.zeros(3, 1)), form="?")  # type: ignore[arg-type]


def test_ers_is_one_less_cosine_and_at_most_one() -> None:
    z, _, _, u = sphere()
    want = [min(1 - cos(one, u), 1.0) for one in z]
    torch.testing.assert_close(paper.ers(z, 5 * u), torch.tensor(want, dtype=torch.float64))
    assert max(want) == 1.0  # the bound was met


# --- Losses ----------------------------------------------------------------------------------------------------------


def naive_losses(z: Tensor, w: Tensor, y: Tensor, u: Tensor, told: Tensor, attended: Tensor, ui: Tensor) -> Tensor:
    """L_cls + 0.7 L_L1 + 0.2 L_ID + 0.5 L_MSE, face by face; s = 16, m = 0.4, beta = 0.75, tau = 3."""
    mean, std = float(ui.mean()), float(ui.std(correction=0))
    terms = {name: z.new_zeros(()) for name in ("cls", "l1", "id", "mse")}
    for i in range(len(z)):
        unit, own = z[i] / z[i].norm(), int(y[i])
        logits = []
        for j in range(len(w)):
            c = unit @ w[j] / w[j].norm()
            logits.append(16 * (torch.cos(torch.acos(c) + 0.4) if j == own else c))
        terms["cls"] = terms["cls"] - torch.log_softmax(torch.stack(logits), 0)[own]
        gap = (told[i] - naive_index(z[i].detach(), w.detach(), own, u, "tanh")).abs()
        terms["l1"] = terms["l1"] + (0.5 * gap**2 / 0.75 if gap < 0.75 else gap - 0.5 * 0.75)
        missing = 3 - (told[i] - mean) / std
        if missing > 0:
            terms["id"] = terms["id"] + missing
        free = unit.detach() - (unit.detach() @ u) * u
        a = attended[i] / attended[i].norm()
        terms["mse"] = terms["mse"] + ((a - free / free.norm()) ** 2).sum()
    return (terms["cls"] + 0.7 * terms["l1"] + 0.2 * terms["id"] + 0.5 * terms["mse"]) / len(z)


def test_all_four_losses_and_their_gradients_are_those_of_loops() -> None:
    objective = Objective(scale=16.0, margin=0.4, l1=0.7, diversion=0.2, mse=0.5)
    z0, w, y, u = sphere(12, seed=3)
    g = torch.Generator().manual_seed(1)
    told0 = torch.cat([torch.rand(11, generator=g, dtype=torch.float64), torch.tensor([2.5], dtype=torch.float64)])
    attended0 = torch.randn(12, 4, generator=g, dtype=torch.float64)
    ui = 0.2 * torch.rand(30, generator=g, dtype=torch.float64)
    network = paper.recognizer(**{**SMALL, "dim": 4, "size": 32}).double()
    network.ui_centre.copy_(u)
    network.ui_mean.copy_(ui.mean())
    network.ui_std.copy_(ui.std(correction=0))
    found = []
    for naive in (False, True):
        z, told, attended, weight = (x.clone().requires_grad_() for x in (z0, told0, attended0, w))
        if naive:
            loss = naive_losses(z, weight, y, u, told, attended, ui)
        else:
            cosines = F.normalize(z, dim=1) @ F.normalize(weight, dim=1).T
            seen = paper.Seen(z, told, attended, torch.zeros(12, 1, 2, 2))
            loss, parts = objective.whole(seen, cosines, y, network)
            assert 0 < float(parts["active"]) < 1
        loss.backward()
        found.append([loss.detach(), *(x.grad for x in (z, told, attended, weight))])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-7)


def test_index_diversion_moves_only_what_is_near_and_neither_mean_nor_deviation() -> None:
    mean, std = torch.tensor(0.3, requires_grad=True), torch.tensor(0.1, requires_grad=True)
    told = torch.tensor([0.25, 0.59, 0.61, 0.9], requires_grad=True)
    loss = paper.diversion_loss(told, mean, std)
    loss.backward()
    assert loss.item() == pytest.approx((3.5 + 0.1) / 4, abs=1e-5)
    assert told.grad is not None
    torch.testing.assert_close(told.grad, torch.tensor([-2.5, -2.5, 0.0, 0.0]))
    assert mean.grad is None
    assert std.grad is None
    assert float(paper.diversion_loss(mean + 3 * std + torch.rand(5), mean, std)) == pytest.approx(0, abs=1e-5)


def test_the_attention_s_target_is_at_right_angles_to_the_centre() -> None:
    z, _, _, u = sphere()
    target = paper.free_of_centre(z.requires_grad_(), 2 * u)
    torch.testing.assert_close(target @ u, torch.zeros(len(z), dtype=torch.float64))
    torch.testing.assert_close(target.norm(dim=1), torch.ones(len(z), dtype=torch.float64))
    assert not target.requires_grad
    assert float(paper.attention_loss(4 * target, target)) == pytest.approx(0, abs=1e-12)
    assert float(paper.attention_loss(-target, target)) == pytest.approx(4)


def test_ranks_are_compared_as_spearman_does() -> None:
    from scipy.stats import spearmanr

    a, b = torch.randn(20, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    assert float(paper.rank_correlation(a, b)) == pytest.approx(spearmanr(a, b).statistic, abs=1e-6)
    assert float(paper.rank_correlation(a, a.exp())) == pytest.approx(1)
    assert float(paper.rank_correlation(a, torch.ones(20))) == 0


# --- The centre ------------------------------------------------------------------------------------------------------


def crowd(seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """60 faces near one direction, 80 of people spread over the sphere, 4 each; which are the former; the direction."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=16)
    u /= np.linalg.norm(u)
    bad = u + 0.1 * rng.normal(size=(60, 16))
    good = np.repeat(rng.normal(size=(20, 16)), 4, 0) + 0.2 * rng.normal(size=(80, 16))
    return np.concatenate([good, bad]) * rng.uniform(1, 5, (140, 1)), np.arange(140) >= 80, u


def test_the_largest_cluster_is_that_of_the_unrecognisable() -> None:
    z, bad, u = crowd()
    found = paper.unrecognizable_centre(z)
    assert (found.members == bad).all()
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    mean = unit[bad].mean(0)
    np.testing.assert_allclose(found.vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert found.vector @ u > 0.98
    rest = unit[~bad].mean(0)
    assert found.to_others == pytest.approx(float(found.vector @ rest / np.linalg.norm(rest)), abs=1e-6)
    assert found.share == pytest.approx(60 / 140)
    known = paper.unrecognizable_centre(z[bad], method="mean", others=z[~bad])
    np.testing.assert_allclose(known.vector, found.vector, atol=1e-6)
    assert known.to_others == pytest.approx(found.to_others, abs=1e-6)


def test_only_some_are_clustered_where_there_are_many() -> None:
    z, bad, u = crowd()
    some = paper.unrecognizable_centre(z, most=70, seed=1)
    assert some.members.sum() < 60
    assert bad[some.members].all()
    assert some.vector @ u > 0.97


def test_a_centre_that_is_the_mean_of_everything_is_refused() -> None:
    z, bad, u = crowd()
    with pytest.raises(ValueRangeError, match="mean of all faces"):
        paper.unrecognizable_centre(z[bad], method="mean", others=z + 40 * u)
    with pytest.raises(ValueRangeError, match="no direction"):
        paper.unrecognizable_centre(np.zeros((3, 4)), method="mean")
    with pytest.raises(ShapeError, match="needs embeddings"):
        paper.unrecognizable_centre(np.zeros((0, 4)))
    with pytest.raises(OptionError, match="unknown way"):
        paper.unrecognizable_centre(z, method="?")  # type: ignore[arg-type]
    assert math.isnan(paper.unrecognizable_centre(z[bad], method="mean").to_others)


# --- Networks --------------------------------------------------------------------------------------------------------


class Own(nn.Module):
    """A backbone of somebody else's, with the two methods."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 3, 8), nn.Linear(6, 8)

    def feature_map(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv(x)
        return features

    def from_map(self, features: Tensor) -> Tensor:
        embedding: Tensor = self.last(features.mean((2, 3)))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        return self.from_map(self.feature_map(x))


def backbones() -> dict[str, tuple[nn.Module, int]]:
    from mien.claims._small import four_convolutions

    return {
        "iresnet": (iresnet18(dim=8, width=0.25, size=32), 32),
        "ir": (ir_50(dim=8, width=0.125, size=32, depths=(1, 1, 1, 1)), 32),
        "mobilefacenet": (mobilefacenet(dim=8, width=0.25, size=32), 32),
        "embedder": (embedder_small(dim=8), 112),
        "sequence": (four_convolutions(dim=8, width=0.25), 32),
        "own": (Own(), 32),
    }


@pytest.mark.parametrize("name", ["iresnet", "ir", "mobilefacenet", "embedder", "sequence", "own"])
def test_the_halves_of_a_backbone_make_it_whole(name: str) -> None:
    torch.manual_seed(0)
    backbone, size = backbones()[name]
    backbone.eval()
    trunk, head = paper.split(backbone)
    x = torch.randn(2, 3, size, size)
    features = trunk(x)
    assert features.ndim == 4
    torch.testing.assert_close(head(features), backbone(x))
    network = paper.Recognizer(backbone, dim=8, size=size).eval()
    seen = network(x)
    torch.testing.assert_close(seen.embedding, backbone(x))
    torch.testing.assert_close(network.embed(x), seen.embedding)
    torch.testing.assert_close(network.rate(x), seen.ri)
    assert seen.ri.shape == (2,)
    assert seen.attention.shape == (2, 1, *features.shape[2:])


def test_a_backbone_without_a_known_map_is_refused() -> None:
    class Closed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    with pytest.raises(OptionError, match="last feature map"):
        paper.split(Closed())
    with pytest.raises(OptionError, match="does not give such embeddings"):
        paper.Recognizer(Own(), dim=9, size=32)
    with pytest.raises(OptionError, match="one of mien"):
        paper.recognizer(network="os:system")
    with pytest.raises(OptionError, match="cannot be built"):
        paper.recognizer(network="mien.nn.iresnet:iresnet51")


def test_sizes_are_those_told() -> None:
    for build in (paper.recognizer, paper.mobile):
        with torch.device("meta"):
            network = build().eval()
        told = build.__doc__ or ""
        assert f"{count_parameters(network) / 1e6:.1f} M" in told
        macs = count_macs(network, (1, 3, 112, 112)) / 1e9
        assert any(f"{macs:.{digits}f} GMAC" in told for digits in (1, 2))


def test_the_attention_is_what_cbam_writes() -> None:
    torch.manual_seed(0)
    attention = paper.Attention(6, dim=5, reduction=3).double()
    x = torch.randn(2, 6, 4, 3, dtype=torch.float64)
    got, vector, where = attention(x)
    first, _, second = attention.channel
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    for b in range(2):

        def mlp(v: Tensor) -> Tensor:
            return second.weight @ torch.relu(first.weight @ v + first.bias) + second.bias

        flat = x[b].reshape(6, -1)
        gate = 1 / (1 + torch.exp(-(mlp(flat.mean(1)) + mlp(flat.max(1).values))))
        f = x[b] * gate[:, None, None]
        two = torch.stack([f.mean(0), f.max(0).values])
        padded = F.pad(two, (3, 3, 3, 3))
        spatial = torch.stack([
            torch.stack([(padded[:, i : i + 7, j : j + 7] * attention.spatial.weight[0]).sum() for j in range(3)])
            for i in range(4)
        ]).sigmoid()  # fmt: skip
        torch.testing.assert_close(where[b, 0], spatial)
        torch.testing.assert_close(got[b], f * spatial)
        torch.testing.assert_close(vector[b], attention.proj((f * spatial).mean((1, 2))))


def test_what_attends_embeds_the_attended_map_and_what_does_not_the_plain_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    for attend in (False, True):
        network = paper.recognizer(**SMALL, size=32, attend=attend).eval()
        trunk, head = paper.split(network.backbone)
        features = network.pam(trunk(x))[0] if attend else trunk(x)
        torch.testing.assert_close(network(x).embedding, head(features))
        torch.testing.assert_close(network.embed(x), head(features))
    told = paper.recognizer(**SMALL, size=32, reads="embedding", returns="embedding").eval()
    assert told.reg.weight.shape == (1, 8)
    torch.testing.assert_close(told.rate(x), told.reg(told(x) / 8**0.5).squeeze(1))


def test_the_index_of_a_large_map_is_learned_at_the_rate_of_the_other_heads() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 512, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 8))
    network = paper.Recognizer(backbone, dim=8, size=7)  # a map of 512 x 7 x 7 = 25,088 numbers
    x, index = torch.randn(16, 3, 7, 7), torch.rand(16)
    update = torch.optim.SGD(network.reg.parameters(), 0.02, momentum=0.9)
    losses = []
    for _ in range(150):
        loss = paper.index_loss(network.see(x, frozen=True).ri, index)
        update.zero_grad()
        loss.backward()
        update.step()
        losses.append(loss.item())
    assert max(losses) < 2 * losses[0]
    assert losses[-1] < 0.7 * losses[0]


def test_a_frozen_backbone_gets_no_gradient_and_keeps_its_statistics() -> None:
    torch.manual_seed(0)
    trainee = Trainee(paper.recognizer(**SMALL, size=32), people=3).train()
    before = {name: value.clone() for name, value in trainee.network.backbone.state_dict().items()}
    seen, cosines = trainee(torch.randn(4, 3, 32, 32), True)
    (cosines.sum() + seen.ri.sum() + seen.attended.sum()).backward()
    assert all(p.grad is None for p in trainee.network.backbone.parameters())
    assert trainee.head.weight.grad is not None
    assert trainee.network.backbone.training
    for name, value in trainee.network.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_gradient_into_the_backbone_is_a_share_of_what_it_was() -> None:
    def gradients(rate: float) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        network = paper.recognizer(**SMALL, size=32, dropout=0.0).eval()
        network.gradient = rate
        seen = network(torch.randn(2, 3, 32, 32))
        (seen.embedding.sum() + seen.ri.sum() + seen.attended.sum()).backward()
        first = next(network.backbone.parameters()).grad
        assert first is not None
        assert network.reg.weight.grad is not None
        return first, network.reg.weight.grad

    (whole, head), (slow, same) = gradients(1.0), gradients(0.25)
    torch.testing.assert_close(slow, 0.25 * whole, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(head, same)


def test_mean_and_deviation_are_of_what_unrecognisable_pictures_get() -> None:
    torch.manual_seed(0)
    network = paper.recognizer(**SMALL, size=32).train()
    x = torch.randn(150, 3, 32, 32)
    network.note_unrecognizable(x)
    assert network.training
    told = network.eval().rate(x).detach()
    torch.testing.assert_close(network.ui_mean, told.mean())
    torch.testing.assert_close(network.ui_std, told.std(correction=0))


# --- In the verbs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Weights of a run of the recipe, with its config beside them, as the loop writes both."""
    from mien.train.checkpoint import save_weights

    recipe = RecognizabilityRecipe.make(
        data="people", out=str(tmp_path / "run"), network="mien.nn.iresnet:iresnet18", dim=8, size=32,
        arguments=("width=0.25", "size=32"), pixels=(3, 32), ui_pixels=(2, 2), pretrain_steps=10, half=False,
    )  # fmt: skip
    torch.manual_seed(0)
    network = paper.recognizer(**SMALL, size=32)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(recipe.to_dict()))
    save_weights(tmp_path / "run" / "weights.safetensors", network)
    return tmp_path / "run" / "weights.safetensors"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))


@pytest.mark.usefixtures("home")
def test_a_run_is_imported_and_its_index_is_a_quality(run: Path) -> None:
    from skimage.data import astronaut

    import mien
    from mien.verbs.quality import from_index
    from mien.verbs.weights import import_weights

    done = import_weights("recognizability", run, name="my-vlr")
    assert imported.names() == ("my-vlr",)
    assert done.weights.embedding is not None
    assert done.weights.embedding.dim == 8
    assert done.weights.macs
    faces = mien.analyze(astronaut(), embedder="my-vlr", quality="recognizability")
    network = load_weights("my-vlr", device="cpu")
    crops = mien.align(astronaut(), crop_size=32).crops
    inputs = done.weights.input.tensor(crops)
    assert faces.embeddings.shape == (1, 8)
    want = network.rate(inputs).detach().numpy()
    np.testing.assert_allclose(faces.quality_components["Recognisability"], from_index(want), atol=1e-5)
    told = from_index(np.array([-1e9, -0.5, 0.5, 1.1, 1.2, 2], np.float32))
    assert ((told >= 0) & (told <= 1)).all()
    assert (np.diff(told) > 0).all()  # what the network tells apart stays apart
    assert told[2] == pytest.approx(0.5)
    blank = mien.analyze(np.zeros((64, 64, 3), np.uint8), embedder="my-vlr", quality="recognizability")
    assert len(blank) == 0


def test_an_embedder_that_predicts_no_index_says_so() -> None:
    import mien

    with pytest.raises(OptionError, match="do not predict how recognisable"):
        mien.analyze(np.zeros((64, 64, 3), np.uint8), quality="recognizability")


def test_the_import_is_strict(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = run.parent / "config.json"
    whole = json.loads(config.read_text())
    state = load_file(run)
    for change, names in (({"no.such": torch.zeros(1)}, None), ({}, "reg.bias"), ({"reg.bias": torch.zeros(2)}, None)):
        other = {**state, **change}
        other.pop(names, None) if names else None
        save_file(other, run)
        with pytest.raises(CheckpointError, match="do not fit"):
            paper.import_official(run, tmp_path / "out.safetensors")
    save_file(state, run)
    for wrong, error in (
        ({"recipe": "TripletRecipe"}, CheckpointError),
        ({"network": "theirs:net"}, OptionError),
        ({"standardise": "image"}, OptionError),
    ):
        config.write_text(json.dumps({**whole, **wrong}))
        with pytest.raises(error):
            paper.import_official(run, tmp_path / "out.safetensors")
    config.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        paper.import_official(run, tmp_path / "out.safetensors")
    with pytest.raises(OptionError, match="safetensors"):
        paper.import_official(run, tmp_path / "out.pt")


def test_there_is_no_official_checkpoint() -> None:
    assert not hasattr(paper, "convert_official")
    assert paper.WEIGHTS == ()
    assert "no official checkpoint" in " ".join((paper.__doc__ or "").split())
