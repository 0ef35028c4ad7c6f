"""FaceNet: losses and mining derived again with loops, networks counted, converters, protocols and codes checked."""

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
from PIL import Image
from torch import Tensor, nn

from mien.errors import CheckpointError, MienError, OptionError, ShapeError, ValueRangeError
from mien.metrics import tar_at_far
from mien.nn.count import count_macs, count_parameters
from mien.nn.inception import InceptionBlock, L2Pool2d, ResidualBranches, Row
from mien.nn.triplet import Kind, Rule, embedding_layers, restart_embedding, rotation_onto
from mien.papers import facenet
from mien.weights import registered

ROOT = Path(__file__).parents[2]
MARGIN = 0.2


def on_meta(build: Any, **options: Any) -> nn.Module:
    """A network of which no number is held."""
    with torch.device("meta"):
        network: nn.Module = build(**options)
    return network


def faces(n: int = 14, d: int = 3, people: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors in float64 that crowd so much that every rule finds something; somebody is there once only."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.randint(people, (n - 1,), generator=generator), torch.tensor([people])])
    z = F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)
    return z, labels


# --- Networks --------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_paper() -> None:
    """Parameters of the sheet, without a number held in memory."""
    assert count_parameters(on_meta(facenet.nn2, norm="lrn")) == 7_456_304
    nn1 = on_meta(facenet.nn1, norm="lrn")
    assert round(count_parameters(nn1) / 1e6) == 140
    assert isinstance(nn1, facenet.ZeilerFergus)
    assert [count_parameters(layer) // 10**6 for layer in nn1.hidden] == [102, 33]  # "103 M" and "34 M", rounded up
    assert count_parameters(on_meta(facenet.inception_resnet_v1)) == 23_482_624
    for build, millions in ((facenet.nns1, 26.0), (facenet.nns2, 4.3)):
        assert count_parameters(on_meta(build)) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    ("name", "shape", "gmac"),
    [("nn1", (220, 220), 1.6), ("nn2", (224, 224), 1.6), ("nns1", (165, 165), 0.22), ("nns2", (140, 116), 0.02)],
)
def test_the_work_is_that_of_the_paper(name: str, shape: tuple[int, int], gmac: float) -> None:
    network = on_meta(facenet.NETWORKS[name].build)
    assert count_macs(network, (1, 3, *shape)) / 1e9 == pytest.approx(gmac, rel=0.03)


@pytest.mark.parametrize("name", sorted(facenet.NETWORKS))
def test_docstrings_and_page_tell_size_and_work(name: str) -> None:
    shape = {"nn1": (220, 220), "nn2": (224, 224), "nn4": (96, 96), "nn4_small2": (96, 96), "nns1": (165, 165),
             "nns2": (140, 116)}.get(name, (160, 160))  # fmt: skip
    network = on_meta(facenet.NETWORKS[name].build)
    parameters, macs = count_parameters(network), count_macs(network, (1, 3, *shape))
    told = facenet.NETWORKS[name].build.__doc__ or ""
    assert (
        f"{parameters / 1e6:.2g}".rstrip("0").rstrip(".") in told
        or f"{parameters / 1e6:.1f} M" in told
        or (f"{parameters / 1e6:.0f} M" in told)
    )
    assert any(f"{macs / 1e9:.{digits}f} GMAC" in told for digits in (1, 2))
    page = (ROOT / "docs" / "papers" / "facenet.md").read_text("utf-8")
    (line,) = [row for row in page.splitlines() if row.startswith(f"| `{name}` ")]
    assert f"{parameters:,}" in line
    assert f"{macs / 1e6:,.0f}" in line
    assert " x ".join(map(str, shape)) in line


def test_blocks_of_nn2_have_the_widths_of_table_2() -> None:
    channels, widths = 192, []
    for row in facenet.network.NN2.values():
        channels = row.channels(channels)
        widths.append(channels)
    assert widths == [256, 320, 640, 640, 640, 640, 640, 1024, 1024, 1024]
    small = 192
    for row in facenet.network.NN4_SMALL2.values():
        small = row.channels(small)
    assert small == 736


def test_maps_of_nn2_have_the_sizes_of_table_2() -> None:
    network = on_meta(facenet.nn2)
    assert isinstance(network, facenet.Inception)
    x = network.stem(torch.zeros(1, 3, 224, 224, device="meta"))
    assert x.shape == (1, 192, 28, 28)
    sides = []
    for block in network.blocks:
        x = block(x)
        sides.append(x.shape[-1])
    assert sides == [28, 28, 14, 14, 14, 14, 14, 7, 7, 7]


@pytest.mark.parametrize(("norm", "kind"), [("bn", nn.BatchNorm2d), ("lrn", nn.LocalResponseNorm)])
def test_either_normalisation_and_no_other(norm: Any, kind: type[nn.Module]) -> None:
    network = on_meta(facenet.nn2, norm=norm)
    of_the_kind = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.LocalResponseNorm)]
    assert of_the_kind
    assert all(type(m) is kind for m in of_the_kind)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert all((m.bias is None) == (norm == "bn") for m in convolutions)
    with pytest.raises(OptionError, match="unknown normalisation"):
        facenet.nn4_small2(norm="gn", width=0.1)  # type: ignore[arg-type]


def test_l2_pooling_is_the_root_of_sums_of_squares_and_its_gradient_stays_finite() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    padded = F.pad(x, (1, 1, 1, 1))
    naive = torch.zeros_like(x)
    for i, j in itertools.product(range(5), range(4)):
        naive[..., i, j] = padded[..., i : i + 3, j : j + 3].square().sum((2, 3)).sqrt()
    torch.testing.assert_close(L2Pool2d()(x), naive, atol=1e-5, rtol=1e-5)
    zeros = torch.zeros(1, 1, 3, 3, requires_grad=True)
    L2Pool2d()(zeros).sum().backward()
    assert zeros.grad is not None
    assert torch.isfinite(zeros.grad).all()


def test_an_inception_block_joins_its_branches_in_order() -> None:
    torch.manual_seed(0)
    block = InceptionBlock(6, Row(2, 3, 4, 3, 5, "max", 1)).eval()
    x = torch.randn(2, 6, 8, 8)
    out = block(x)
    assert out.shape == (2, 12, 8, 8)
    start = 0
    for branch, width in zip(block.branches, (2, 4, 5, 1), strict=True):
        torch.testing.assert_close(out[:, start : start + width], branch(x))
        start += width
    strided = InceptionBlock(6, Row(0, 3, 4, 3, 5, "max", 0, 2)).eval()
    assert strided(x).shape == (2, 4 + 5 + 6, 4, 4)
    torch.testing.assert_close(strided(x)[:, -6:], F.max_pool2d(x, 3, 2, 1))
    with pytest.raises(OptionError, match="stride 1"):
        InceptionBlock(6, Row(0, 3, 4, 3, 5, "l2", 0, 2))


def test_a_residual_block_adds_a_scaled_branch() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 5)
    for relu in (True, False):
        block = ResidualBranches(8, (((3, 1, 1),), ((2, 1, 1), (4, (1, 7), 1))), scale=0.17, relu=relu).eval()
        joined = torch.cat([block.get_submodule("branch0")(x), block.get_submodule("branch1")(x)], 1)
        want = x + 0.17 * block.conv2d(joined)
        torch.testing.assert_close(block(x), want.relu() if relu else want)


def test_embeddings_are_unit_vectors_and_logits_are_of_the_features() -> None:
    torch.manual_seed(0)
    network = facenet.inception_resnet_v1(width=0.125, repeats=(1, 1, 1), dim=16, classes=7).eval()
    x = torch.randn(2, 3, 80, 80)
    with torch.no_grad():
        features = network.features(x)
        torch.testing.assert_close(network(x), features / features.norm(dim=1, keepdim=True))
        assert network.logits is not None
        torch.testing.assert_close(network.classify(x), network.logits(features))
    with pytest.raises(OptionError, match="no classifier"):
        facenet.inception_resnet_v1(width=0.125, repeats=(0, 0, 0), dim=4).classify(x)


def test_networks_with_fully_connected_layers_say_which_size_they_want() -> None:
    network = facenet.nns2(size=(64, 48), width=0.1, hidden=8)
    with pytest.raises(ShapeError, match=r"64, 48"):
        network(torch.zeros(1, 3, 48, 64))
    with pytest.raises(ShapeError, match=r"64, 64"):
        facenet.nn1(size=64, width=0.1, hidden=8)(torch.zeros(1, 3, 48, 64))


# --- Mining and losses, by loops -------------------------------------------------------------------------------------


def candidates(positive: float, negatives: list[tuple[float, int]], rule: Rule) -> set[int]:
    """The negatives that a pair may get, one by one."""
    nearest = sorted(negatives)
    within = [(d, n) for d, n in nearest if d < positive + MARGIN]
    semi_hard = [(d, n) for d, n in within if d > positive]
    chosen = {
        "semi_hard": semi_hard,
        "nearest_semi_hard": semi_hard[:1],
        "hard": nearest[:1],
        "violator": within,
        "random": nearest,
        "all": within,
    }[rule]
    return {n for _, n in chosen}


@pytest.mark.parametrize("both_orders", [True, False])
@pytest.mark.parametrize("rule", facenet.RULES)
def test_every_rule_mines_what_brute_force_allows(rule: Rule, both_orders: bool) -> None:
    z, labels = faces()
    distances = facenet.squared_distances(z, z)
    seen: dict[tuple[int, int], set[int]] = {}
    for seed in range(40):
        found = facenet.mine(
            distances, labels, rule=rule, both_orders=both_orders, generator=torch.Generator().manual_seed(seed)
        )
        rows = list(zip(*(part.tolist() for part in found), strict=True))
        assert rows == sorted(rows, key=lambda row: row[:2])  # by anchor, then positive
        if rule != "all":
            assert len({row[:2] for row in rows}) == len(rows)  # one a pair
        for a, p, n in rows:
            seen.setdefault((a, p), set()).add(n)
    for a, p in itertools.product(range(len(z)), repeat=2):
        allowed: set[int] = set()
        if labels[a] == labels[p] and (a != p if both_orders else a < p):
            others = [(float(distances[a, n]), n) for n in range(len(z)) if labels[n] != labels[a]]
            allowed = candidates(float(distances[a, p]), others, rule)
        got = seen.get((a, p), set())
        # Forty draws leave out one of a dozen candidates with a chance of a few percent: a subset, and not a tiny one.
        assert got <= allowed
        assert len(got) >= min(len(allowed), 4 if rule in ("semi_hard", "violator", "random") else len(allowed))


def test_the_random_choice_is_even() -> None:
    z, labels = faces()
    distances = facenet.squared_distances(z, z)
    torch.manual_seed(0)
    counts: dict[int, int] = {}
    for _ in range(600):
        found = facenet.mine(distances, labels, rule="random")
        first = (found.anchor == found.anchor[0]) & (found.positive == found.positive[0])
        n = int(found.negative[first])
        counts[n] = counts.get(n, 0) + 1
    others = int((labels != labels[found.anchor[0]]).sum())
    expected = 600 / others
    assert len(counts) == others
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 3 * others  # chi-squared, generously


def naive_loss(z: Tensor, triplets: facenet.Triplets, reduction: str, count: int) -> Tensor:
    """Equation 3, triplet by triplet; `count` is what the mean is taken over."""
    total, active = z.new_zeros(()), 0
    rows = list(zip(*(part.tolist() for part in triplets), strict=True))
    for a, p, n in rows:
        gap = ((z[a] - z[p]) ** 2).sum() - ((z[a] - z[n]) ** 2).sum() + MARGIN
        if gap > 0:
            total, active = total + gap, active + 1
    return total / {"active": max(1, active), "mean": count, "sum": 1}[reduction]


@pytest.mark.parametrize("reduction", ["active", "mean", "sum"])
@pytest.mark.parametrize("rule", facenet.RULES)
def test_the_loss_and_its_gradient_are_those_of_equation_3(rule: Rule, reduction: Any) -> None:
    raw, labels = faces(n=18, seed=1)
    gradients, losses = [], []
    for naive in (False, True):
        x = raw.clone().mul(3).requires_grad_()
        z = F.normalize(x, dim=1)
        generator = torch.Generator().manual_seed(5)
        if naive:
            distances = facenet.squared_distances(z, z).detach()
            found = facenet.mine(distances, labels, rule=rule, generator=generator)
            same = labels[:, None] == labels
            # "all" lists those with a loss only, and means the mean over those without one too.
            possible = int(((same.sum(1) - 1) * (~same).sum(1)).sum())
            loss = naive_loss(z, found, reduction, possible if rule == "all" else len(found.anchor))
        else:
            loss, _ = facenet.triplet_loss(z, labels, rule=rule, reduction=reduction, generator=generator)
        loss.backward()
        assert x.grad is not None
        gradients.append(x.grad)
        losses.append(loss.detach())
    assert losses[1] > 0
    torch.testing.assert_close(losses[0], losses[1], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-10, rtol=1e-10)


def test_the_share_of_active_triplets_among_all() -> None:
    z, labels = faces()
    _, parts = facenet.triplet_loss(z, labels, rule="all")
    active = [
        float(((z[a] - z[p]) ** 2).sum() - ((z[a] - z[n]) ** 2).sum()) + MARGIN > 0
        for a, p, n in itertools.product(range(len(z)), repeat=3)
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]
    assert float(parts["active"]) == pytest.approx(np.mean(active))


def test_what_is_logged_is_what_it_says() -> None:
    z, labels = faces()
    _, parts = facenet.triplet_loss(z, labels, rule="random", generator=torch.Generator().manual_seed(0))
    triplets = facenet.mine(
        facenet.squared_distances(z, z), labels, rule="random", generator=torch.Generator().manual_seed(0)
    )
    pairs = [(i, j) for i, j in itertools.product(range(len(z)), repeat=2) if i != j]
    distance = {pair: float(((z[pair[0]] - z[pair[1]]) ** 2).sum()) for pair in pairs}
    same = [distance[i, j] for i, j in pairs if labels[i] == labels[j]]
    other = [distance[i, j] for i, j in pairs if labels[i] != labels[j]]
    active = sum(
        distance[a, p] - distance[a, n] + MARGIN > 0
        for a, p, n in zip(*(part.tolist() for part in triplets), strict=True)
    )
    assert float(parts["active"]) == pytest.approx(active / len(same))
    assert float(parts["positive"]) == pytest.approx(np.mean(same))
    assert float(parts["negative"]) == pytest.approx(np.mean(other))
    assert float(parts["distance"]) == pytest.approx(np.mean(same + other))


def test_a_collapsed_network_has_a_loss_at_the_margin_and_no_distance() -> None:
    z = F.normalize(torch.ones(8, 4), dim=1)
    loss, parts = facenet.triplet_loss(z, torch.arange(4).repeat(2), rule="hard")
    assert float(loss) == pytest.approx(MARGIN, abs=1e-6)
    assert float(parts["distance"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rule", facenet.RULES)
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [0], []])
def test_a_batch_without_triplets_gives_nothing_and_a_gradient_of_nothing(rule: Rule, labels: list[int]) -> None:
    z = F.normalize(torch.randn(len(labels), 4), dim=1).requires_grad_()
    loss, parts = facenet.triplet_loss(z, torch.tensor(labels, dtype=torch.int64), rule=rule)
    loss.backward()
    assert loss.item() == 0
    assert float(parts["active"]) == 0
    assert z.grad is not None
    assert not z.grad.any()


def test_half_precision_is_widened_before_distances_are_taken() -> None:
    z, labels = faces(n=20, d=16)
    half, _ = facenet.triplet_loss(z.bfloat16(), labels, rule="nearest_semi_hard")
    full, _ = facenet.triplet_loss(z.bfloat16().float(), labels, rule="nearest_semi_hard")
    assert half.dtype == torch.float32
    assert float(half) == float(full)


def test_wrong_options_and_shapes_are_named() -> None:
    z, labels = faces()
    with pytest.raises(OptionError, match=r"unknown mining rule.*semi_hard"):
        facenet.mine(facenet.squared_distances(z, z), labels, rule="semihard")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"unknown reduction.*active"):
        facenet.triplet_loss(z, labels, reduction="actives")  # type: ignore[arg-type]
    with pytest.raises(ValueRangeError, match="margin"):
        facenet.triplet_loss(z, labels, margin=-1)
    with pytest.raises(ShapeError, match="labels"):
        facenet.triplet_loss(z, labels[:-1])
    with pytest.raises(ShapeError, match=r"\(n, d\)"):
        facenet.squared_distances(z, z[:, :2])


# --- Harmonic embeddings ---------------------------------------------------------------------------------------------


def test_there_are_seven_kinds_of_harmonic_triplets() -> None:
    every = {"".join(kind) for kind in itertools.product("12", repeat=3)}
    assert set(facenet.KINDS) == every - {"111"}


@pytest.mark.parametrize("kind", facenet.KINDS)
@pytest.mark.parametrize("rule", ["nearest_semi_hard", "hard", "all"])
def test_a_harmonic_loss_and_its_gradient_by_brute_force(kind: Kind, rule: Rule) -> None:
    """Semi-hard in the mixed distances: the slots are read off the kind, one by one."""
    old, labels = faces(n=16, seed=2)
    raw, _ = faces(n=16, seed=3)
    losses, gradients = [], []
    for naive in (False, True):
        x = raw.clone().requires_grad_()
        new = F.normalize(x, dim=1)
        if naive:
            slot = [old if version == "1" else new for version in kind]
            total, active = new.new_zeros(()), 0
            for a, p in itertools.product(range(16), repeat=2):
                if a == p or labels[a] != labels[p]:
                    continue
                positive = ((slot[0][a] - slot[1][p]) ** 2).sum()
                negative = {n: ((slot[0][a] - slot[2][n]) ** 2).sum() for n in range(16) if labels[n] != labels[a]}
                for n in candidates(float(positive), [(float(d), n) for n, d in negative.items()], rule):
                    gap = positive - negative[n] + MARGIN
                    if gap > 0:
                        total, active = total + gap, active + 1
            loss = total / active
        else:
            loss, parts = facenet.harmonic_loss(old, new, labels, kinds=(kind,), rule=rule)
            assert float(parts["cross"]) == pytest.approx(float(((old - new.detach()) ** 2).sum(1).mean()))
        loss.backward()
        assert x.grad is not None
        losses.append(loss.detach())
        gradients.append(x.grad)
    assert losses[1] > 0
    torch.testing.assert_close(losses[0], losses[1], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-10, rtol=1e-10)


def test_all_kinds_count_the_same_and_the_old_network_gets_no_gradient() -> None:
    old, labels = faces(n=16, seed=2)
    new, _ = faces(n=16, seed=3)
    old.requires_grad_()
    new.requires_grad_()
    rule: Rule = "nearest_semi_hard"
    each = [facenet.harmonic_loss(old, new, labels, kinds=(kind,), rule=rule)[0] for kind in facenet.KINDS]
    loss, _ = facenet.harmonic_loss(old, new, labels, rule=rule)
    torch.testing.assert_close(loss, torch.stack(each).mean())
    loss.backward()
    assert old.grad is None
    assert new.grad is not None
    alone, _ = facenet.triplet_loss(new, labels, rule=rule)
    torch.testing.assert_close(each[facenet.KINDS.index("222")], alone)


def test_harmonic_options_are_checked() -> None:
    z, labels = faces()
    with pytest.raises(OptionError, match="kinds"):
        facenet.harmonic_loss(z, z, labels, kinds=("111",))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="kinds"):
        facenet.harmonic_loss(z, z, labels, kinds=())
    with pytest.raises(ShapeError, match="differ"):
        facenet.harmonic_loss(z, z[:, :2], labels)


@pytest.mark.parametrize("name", sorted(facenet.NETWORKS))
def test_the_embedding_layer_of_every_network_is_found_and_started_anew(name: str) -> None:
    network = facenet.NETWORKS[name]
    torch.manual_seed(0)
    module = network.build(**network.small)
    layers = embedding_layers(module)
    kinds = [type(layer) for layer in layers]
    assert kinds == ([nn.Linear, nn.BatchNorm1d] if name == "inception_resnet_v1" else [nn.Linear])
    assert layers[0] is (module.last_linear if name == "inception_resnet_v1" else module.embedding)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    restart_embedding(module)
    changed = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert changed <= {"last_linear.weight", "embedding.weight", "embedding.bias"}


def test_a_classifier_is_not_the_embedding_layer() -> None:
    network = facenet.inception_resnet_v1(width=0.125, repeats=(0, 0, 0), dim=4, classes=9)
    assert embedding_layers(network) == [network.last_linear, network.last_bn]
    with pytest.raises(OptionError, match="no linear layer"):
        embedding_layers(nn.Conv2d(3, 4, 1))


def test_rotation_onto_undoes_a_rotation() -> None:
    z, _ = faces(n=20, d=5)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    torch.testing.assert_close(z @ turn @ rotation_onto(z @ turn, z), z)
    with pytest.raises(ShapeError):
        rotation_onto(z, z[:, :2])


# --- In and out ------------------------------------------------------------------------------------------------------


def test_both_standardisations() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (2, 5, 4, 3), np.uint8))
    fixed = facenet.fixed_standardisation(images)
    assert float(fixed[1, 2, 3, 1]) == (float(images[1, 3, 1, 2]) - 127.5) / 128
    own = facenet.image_standardisation(images)
    for picture, got in zip(images.numpy().astype(np.float64), own.numpy(), strict=True):
        spread = max(picture.std(), 1 / math.sqrt(picture.size))
        np.testing.assert_allclose(got, ((picture - picture.mean()) / spread).transpose(2, 0, 1), atol=1e-5)
    flat = facenet.image_standardisation(torch.full((1, 4, 4, 3), 77, dtype=torch.uint8))
    assert not flat.any()
    assert facenet.image_standardisation(torch.zeros(0, 4, 4, 3, dtype=torch.uint8)).shape == (0, 3, 4, 4)


def test_margins_of_both_conventions() -> None:
    box = [[100.0, 80.0, 180.0, 180.0]]
    photo = facenet.margin_boxes(box, width=400, height=300, margin=44)
    assert photo.tolist() == [[78, 58, 202, 202]]
    # 32 of the crop's 160 px: a quarter of the remaining 128, of each side, half on either hand.
    crop = facenet.margin_boxes(box, width=400, height=300, margin=32, of="crop")
    assert crop.tolist() == [[90, 67, 190, 192]]
    edge = facenet.margin_boxes([[5.0, 5.0, 395.0, 299.0]], width=400, height=300, margin=44)
    assert edge.tolist() == [[0, 0, 400, 300]]
    with pytest.raises(ValueRangeError, match="margin"):
        facenet.margin_boxes(box, width=400, height=300, margin=160, of="crop")
    with pytest.raises(OptionError, match="photo"):
        facenet.margin_boxes(box, width=400, height=300, of="box")  # type: ignore[arg-type]


def test_crops_are_squashed_to_the_square() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (120, 90, 3), np.uint8)
    crops = facenet.margin_crops(image, [[20.0, 10.0, 60.0, 90.0], [0.0, 0.0, 30.0, 30.0]], margin=20, size=32)
    assert crops.shape == (2, 32, 32, 3)
    want = Image.fromarray(image[0:100, 10:70]).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(crops[0], np.asarray(want))
    assert facenet.margin_crops(image, np.zeros((0, 4)), size=32).shape == (0, 32, 32, 3)
    with pytest.raises(ValueRangeError, match="no pixel"):
        facenet.margin_crops(image, [[200.0, 10.0, 260.0, 90.0]], margin=20)
    with pytest.raises(ShapeError, match="photo"):
        facenet.margin_crops(image[..., 0], [[0.0, 0.0, 9.0, 9.0]])


def test_distances_of_mirrored_pairs_are_the_mean_of_both() -> None:
    torch.manual_seed(0)
    network = facenet.nn4_small2(width=0.1, dim=6).eval()
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        z, mirrored, joined = network(x), network(x.flip(3)), facenet.embed_with_mirror(network, x)
    assert joined.shape == (3, 12)
    torch.testing.assert_close(joined.norm(dim=1), torch.ones(3))
    both = (facenet.squared_distances(z, z) + facenet.squared_distances(mirrored, mirrored)) / 2
    torch.testing.assert_close(facenet.squared_distances(joined, joined), both, atol=1e-5, rtol=1e-5)


@given(seed=st.integers(0, 10**6), d=st.sampled_from([2, 64, 128, 512]))
@settings(max_examples=30)
def test_one_byte_a_number_keeps_the_vector(seed: int, d: int) -> None:
    z = np.random.default_rng(seed).normal(size=(5, d))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    codes = facenet.quantise(z)
    assert codes.dtype == np.int8
    assert codes.nbytes == z.size
    assert (np.abs(codes).max(1) == 127).all()
    back = facenet.dequantise(codes)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    # Each number is off by at most max|v| / 254; restoring the length at most doubles what that adds up to.
    error = np.linalg.norm(back - z, axis=1)
    assert (error <= 2 * math.sqrt(d) * np.abs(z).max(1) / 254 + 1e-6).all()


def test_128_bytes_verify_as_well_as_128_floats() -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(size=(60, 128))
    who = np.repeat(np.arange(60), 5)
    z = people[who] + 1.6 * rng.normal(size=(300, 128))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    exact, _, _ = facenet.val_at_far(z, who)
    coded, _, _ = facenet.val_at_far(facenet.dequantise(facenet.quantise(z)), who)
    assert 0.3 < exact < 0.99
    assert coded == pytest.approx(exact, abs=0.01)


def test_codes_and_vectors_without_a_direction_are_refused() -> None:
    with pytest.raises(ValueRangeError, match="row 1"):
        facenet.quantise([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueRangeError, match="row 0"):
        facenet.dequantise(np.zeros((1, 4), np.int8))
    with pytest.raises(MienError, match="int8"):
        facenet.dequantise(np.zeros((1, 4)))  # type: ignore[arg-type]
    assert facenet.quantise(np.zeros((0, 8))).shape == (0, 8)


# --- Protocols, by hand ----------------------------------------------------------------------------------------------


def test_val_and_far_are_shares_at_or_below_the_threshold() -> None:
    distances, same = [0.2, 0.6, 1.0, 0.6, 1.4, 2.0], [1, 1, 1, 0, 0, 0]
    val, far = facenet.rates(distances, same, [0.0, 0.6, 1.0, 2.0])
    np.testing.assert_allclose(val, [0, 2 / 3, 1, 1])
    np.testing.assert_allclose(far, [0, 1 / 3, 1 / 3, 1])
    with pytest.raises(ValueRangeError, match="one kind"):
        facenet.rates([0.1], [1], [0.5])


def test_folds_are_runs_as_equal_as_can_be() -> None:
    assert facenet.folds_of(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert np.bincount(facenet.folds_of(6000)).tolist() == [600] * 10
    with pytest.raises(ValueRangeError):
        facenet.folds_of(3, 4)


def lfw_like(n: int = 200, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    same = np.tile([True, False], n // 2)
    return np.clip(np.where(same, 0.9, 1.5) + 0.25 * rng.normal(size=n), 0, 3.99), same


def test_accuracy_on_the_grid_is_that_of_the_loops() -> None:
    distances, same = lfw_like()
    found = facenet.lfw_accuracy(distances, same, grid=facenet.ACCURACY_GRID)
    folds = facenet.folds_of(len(same))
    accuracies, thresholds = [], []
    for fold in range(10):
        train, test = folds != fold, folds == fold
        scored = [((distances[train] < t) == same[train]).mean() for t in facenet.ACCURACY_GRID]
        thresholds.append(facenet.ACCURACY_GRID[int(np.argmax(scored))])
        accuracies.append(((distances[test] < thresholds[-1]) == same[test]).mean())
    np.testing.assert_allclose(found.accuracies, accuracies)
    np.testing.assert_allclose(found.thresholds, thresholds)
    assert found.accuracy == pytest.approx(np.mean(accuracies))
    assert found.standard_error == pytest.approx(np.std(accuracies, ddof=1) / math.sqrt(10))


def test_accuracy_without_a_grid_has_its_thresholds_in_squared_distance() -> None:
    distances, same = lfw_like()
    found = facenet.lfw_accuracy(distances, same)
    assert found.accuracy > 0.8
    assert all(1.0 < threshold < 1.4 for threshold in found.thresholds)
    easy = facenet.lfw_accuracy([0.1, 2.0, 0.3, 1.9], [1, 0, 1, 0], [0, 0, 1, 1])
    assert (easy.accuracy, easy.standard_error, easy.folds) == (1.0, 0.0, ("0", "1"))
    with pytest.raises(ValueRangeError, match="one fold"):
        facenet.lfw_accuracy([0.1, 2.0], [1, 0], [0, 0], grid=[1.0])


def test_validation_interpolates_the_threshold_of_the_other_folds() -> None:
    # Fold 0 is judged by fold 1 and the other way round; with far 1/4, half way between two steps of the grid.
    distances = [0.5, 1.2, 1.5, 1.9, 1.0, 2.0, 0.7, 1.6]
    same = [1, 0, 0, 1, 1, 0, 1, 0]
    folds = [0, 0, 0, 0, 1, 1, 1, 1]
    found = facenet.lfw_validation(distances, same, folds, far=0.25, grid=[0.0, 1.0, 1.3, 1.8, 3.0])
    # On fold 1 (different: 2.0, 1.6) the FAR is 0, 0, 0, 1/2, 1: half way from 1.3 to 1.8.
    # On fold 0 (different: 1.2, 1.5) it is 0, 0, 1/2, 1, 1: half way from 1.0 to 1.3.
    np.testing.assert_allclose(found.thresholds, [1.55, 1.15])
    assert found.vals == (0.5, 1.0)
    assert (found.val, found.far) == (0.75, 0.5)
    assert found.standard_error == pytest.approx(0.25)
    everything = facenet.lfw_validation(distances, same, folds, far=0.25, grid=[3.0])
    assert everything.thresholds == (0.0, 0.0)
    nothing = facenet.lfw_validation(distances, same, folds, far=0.25, grid=[0.0, 0.1])
    assert nothing.thresholds == (0.1, 0.1)


def some_people(n: int = 120, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    who = np.arange(n) % (n // 6)
    z = rng.normal(size=(n // 6, 8))[who] + 0.6 * rng.normal(size=(n, 8))
    return z / np.linalg.norm(z, axis=1, keepdims=True), who


@pytest.mark.parametrize("far", [1e-3, 1e-2, 0.2])
def test_val_at_far_is_that_of_all_pairs_listed(far: float, monkeypatch: pytest.MonkeyPatch) -> None:
    z, who = some_people()
    first, second = np.triu_indices(len(z), 1)
    cosines, same = (z[first] * z[second]).sum(1), who[first] == who[second]
    val, reached, threshold = facenet.val_at_far(z, who, far=far)
    assert val == pytest.approx(tar_at_far(cosines, same, far), abs=0.01)  # bins of 1e-4
    assert reached <= far
    again_val, again_far = facenet.rates(2 - 2 * cosines, same, [threshold])
    assert val == pytest.approx(float(again_val[0]), abs=0.005)
    assert reached == pytest.approx(float(again_far[0]), abs=1e-3)
    with pytest.raises(ValueRangeError, match="one kind"):
        facenet.val_at_far(z, np.arange(len(z)))


def test_hold_out_is_the_mean_over_disjoint_parts() -> None:
    z, who = some_people(n=300)
    found = facenet.hold_out(z, who, splits=3, far=1e-2, seed=4)
    order = np.random.default_rng(4).permutation(300)
    vals = [facenet.val_at_far(z[part], who[part], far=1e-2)[0] for part in np.array_split(order, 3)]
    assert found.vals == tuple(vals)
    assert found.val == pytest.approx(np.mean(vals))
    assert found.standard_error == pytest.approx(np.std(vals, ddof=1) / math.sqrt(3))
    assert found.far <= 1e-2
    with pytest.raises(ValueRangeError, match="splits"):
        facenet.hold_out(z, who, splits=1)


def test_videos_are_compared_by_the_mean_over_all_pairs_of_first_frames() -> None:
    rng = np.random.default_rng(0)
    video = np.array([0, 1, 0, 2, 1, 0, 0, 2, 1])
    z = rng.normal(size=(9, 4))
    got = facenet.video_distances(z, video, [0, 1, 0], [1, 2, 0], frames=2)
    early = {v: z[video == v][:2] for v in range(3)}
    want = [np.mean([((a - b) ** 2).sum() for a in early[i] for b in early[j]]) for i, j in ((0, 1), (1, 2), (0, 0))]
    np.testing.assert_allclose(got, want)
    with pytest.raises(ValueRangeError, match="video 3"):
        facenet.video_distances(z, video, [0], [3])
    with pytest.raises(ValueRangeError, match="frame"):
        facenet.video_distances(z, video, [0], [1], frames=0)
    assert facenet.video_distances(z, video, [], []).shape == (0,)


def test_clusters_are_joined_by_mean_squared_distance() -> None:
    def at(degrees: float) -> list[float]:
        return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]

    # Squared distances: 0-10 degrees 0.030, 10-25: 0.068, 0-25: 0.187; the pair first, then mean (0.068 + 0.187) / 2.
    z = np.array([at(0), at(170), at(10), at(25), at(180)])
    assert facenet.cluster(z, threshold=0.05).tolist() == [0, 1, 0, 2, 1]
    assert facenet.cluster(z, threshold=0.126).tolist() == [0, 1, 0, 2, 1]
    assert facenet.cluster(z, threshold=0.129).tolist() == [0, 1, 0, 0, 1]
    assert facenet.cluster(z, threshold=0.129, linkage="complete").tolist() == [0, 1, 0, 2, 1]
    assert facenet.cluster(z, threshold=0.07, linkage="single").tolist() == [0, 1, 0, 0, 1]
    assert facenet.cluster(z, threshold=4).tolist() == [0] * 5
    assert facenet.cluster(z[:1]).tolist() == [0]
    assert facenet.cluster(z[:0]).tolist() == []
    with pytest.raises(OptionError, match="linkage"):
        facenet.cluster(z, linkage="ward")  # type: ignore[arg-type]


def test_the_threshold_of_lfw_as_a_cosine() -> None:
    assert round(1 - facenet.LFW_THRESHOLD / 2, 3) == 0.379


# --- Checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layout() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the port's checkpoint for CASIA-WebFace, of the full size."""
    network = on_meta(facenet.inception_resnet_v1, classes=10575)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def official(layout: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A checkpoint of that layout that takes no memory: each tensor is one number, expanded."""
    return {
        key: torch.full((), index / 7, dtype=torch.int64 if key.endswith("tracked") else torch.float32).expand(shape)
        for index, (key, shape) in enumerate(layout.items())
    }


def test_a_checkpoint_of_the_port_is_taken_with_or_without_its_classifier(layout: dict[str, tuple[int, ...]]) -> None:
    state = official(layout)
    kept = facenet.convert_official(state, classifier="keep")
    assert {key: tuple(value.shape) for key, value in kept.items()} == layout
    assert all(float(kept[key].flatten()[0]) == float(state[key].flatten()[0]) for key in layout)
    dropped = facenet.convert_official(state)
    assert set(layout) - set(dropped) == {"logits.weight", "logits.bias"}
    headless = {key: value for key, value in state.items() if not key.startswith("logits.")}
    assert facenet.convert_official(headless, classifier="keep").keys() == dropped.keys()
    counted = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert facenet.convert_official(counted).keys() == dropped.keys()  # files of safetensors have no counters
    with pytest.raises(OptionError, match="classifier"):
        facenet.convert_official(state, classifier="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra.weight": (3,)}, r"1 unknown \(extra\.weight\)"),
        ({"repeat_2.9.conv2d.bias": None}, r"1 missing \(repeat_2\.9\.conv2d\.bias\)"),
        ({"logits.bias": None}, r"1 missing \(logits\.bias\)"),
        ({"logits.weight": None}, r"1 missing \(logits\.weight\)"),
        ({"conv2d_1a.conv.weight": (32, 3, 5, 5)}, r"of another shape \(conv2d_1a\.conv\.weight \(32, 3, 5, 5\) for"),
        ({"logits.weight": (10575, 128)}, "of another shape"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(
    layout: dict[str, tuple[int, ...]], change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    state = official(layout)
    for key, shape in change.items():
        if shape is None:
            del state[key]
        else:
            state[key] = torch.zeros(()).expand(shape)
    with pytest.raises(CheckpointError, match=message):
        facenet.convert_official(state)


def as_tensorflow(state: dict[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """The same network as variables of D. Sandberg's model, named one by one, with the layouts of TensorFlow."""
    variables: dict[str, Tensor] = {}

    def unit(ours: str, scope: str) -> None:
        variables[f"{scope}/weights"] = state[f"{ours}.conv.weight"].permute(2, 3, 1, 0)
        norm(f"{ours}.bn", f"{scope}/BatchNorm")

    def norm(ours: str, scope: str) -> None:
        variables[f"{scope}/beta"] = state[f"{ours}.bias"]
        variables[f"{scope}/moving_mean"] = state[f"{ours}.running_mean"]
        variables[f"{scope}/moving_variance"] = state[f"{ours}.running_var"]

    root = "InceptionResnetV1"
    for ours, scope in (
        ("1a", "1a_3x3"), ("2a", "2a_3x3"), ("2b", "2b_3x3"), ("3b", "3b_1x1"), ("4a", "4a_3x3"), ("4b", "4b_3x3")
    ):  # fmt: skip
        unit(f"conv2d_{ours}", f"{root}/Conv2d_{scope}")
    for ours, scope, count, second, third in (
        ("repeat_1", "Repeat/block35", 5, "3x3", "3x3"),
        ("repeat_2", "Repeat_1/block17", 10, "1x7", "7x1"),
        ("repeat_3", "Repeat_2/block8", 5, "1x3", "3x1"),
        ("block8", "Block8", 0, "1x3", "3x1"),
    ):
        for index in range(max(1, count)):
            inside = f"{ours}.{index}" if count else ours
            at = f"{root}/{scope}_{index + 1}" if count else f"{root}/{scope}"
            unit(f"{inside}.branch0", f"{at}/Branch_0/Conv2d_1x1")
            unit(f"{inside}.branch1.0", f"{at}/Branch_1/Conv2d_0a_1x1")
            unit(f"{inside}.branch1.1", f"{at}/Branch_1/Conv2d_0b_{second}")
            if ours == "repeat_1":
                unit(f"{inside}.branch2.0", f"{at}/Branch_2/Conv2d_0a_1x1")
                unit(f"{inside}.branch2.1", f"{at}/Branch_2/Conv2d_0b_3x3")
                unit(f"{inside}.branch2.2", f"{at}/Branch_2/Conv2d_0c_3x3")
            else:
                unit(f"{inside}.branch1.2", f"{at}/Branch_1/Conv2d_0c_{third}")
            variables[f"{at}/Conv2d_1x1/weights"] = state[f"{inside}.conv2d.weight"].permute(2, 3, 1, 0)
            variables[f"{at}/Conv2d_1x1/biases"] = state[f"{inside}.conv2d.bias"]
    for ours, scope in (
        ("6a.branch0", "6a/Branch_0/Conv2d_1a_3x3"),
        ("6a.branch1.0", "6a/Branch_1/Conv2d_0a_1x1"),
        ("6a.branch1.1", "6a/Branch_1/Conv2d_0b_3x3"),
        ("6a.branch1.2", "6a/Branch_1/Conv2d_1a_3x3"),
        ("7a.branch0.0", "7a/Branch_0/Conv2d_0a_1x1"),
        ("7a.branch0.1", "7a/Branch_0/Conv2d_1a_3x3"),
        ("7a.branch1.0", "7a/Branch_1/Conv2d_0a_1x1"),
        ("7a.branch1.1", "7a/Branch_1/Conv2d_1a_3x3"),
        ("7a.branch2.0", "7a/Branch_2/Conv2d_0a_1x1"),
        ("7a.branch2.1", "7a/Branch_2/Conv2d_0b_3x3"),
        ("7a.branch2.2", "7a/Branch_2/Conv2d_1a_3x3"),
    ):
        unit(f"mixed_{ours}", f"{root}/Mixed_{scope}")
    variables[f"{root}/Bottleneck/weights"] = state["last_linear.weight"].T
    norm("last_bn", f"{root}/Bottleneck/BatchNorm")
    if "logits.weight" in state:
        variables["Logits/weights"] = state["logits.weight"].T
        variables["Logits/biases"] = state["logits.bias"]
    return {name: value.numpy() for name, value in variables.items()}


def test_variables_of_tensorflow_become_the_same_network() -> None:
    torch.manual_seed(0)
    network = facenet.inception_resnet_v1(dim=128, classes=5)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
    state = network.state_dict()  # the gains are 1, as Slim's are
    variables = as_tensorflow(state)
    assert set(variables) == set(facenet.tensorflow_names())
    converted = facenet.convert_official(variables, classifier="keep")
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[key], value) for key, value in state.items())
    network.load_state_dict(converted, strict=True)
    headless = {name: value for name, value in variables.items() if not name.startswith("Logits/")}
    assert set(state) - set(facenet.convert_official(headless)) == {"logits.weight", "logits.bias"}
    with pytest.raises(CheckpointError, match=r"1 unknown \(global_step\)"):
        facenet.convert_official({**variables, "global_step": np.zeros(())})
    del variables["InceptionResnetV1/Block8/Conv2d_1x1/biases"]
    with pytest.raises(CheckpointError, match=r"1 missing \(InceptionResnetV1/Block8/Conv2d_1x1/biases\)"):
        facenet.convert_official(variables)


def test_a_converted_file_is_declared_and_serves_the_verbs(tmp_path: Path, fakes: Any) -> None:
    from mien import embed
    from mien.weights import info, load

    torch.manual_seed(0)
    network = facenet.inception_resnet_v1(classes=3).eval()
    file = tmp_path / facenet.RELEASED["vggface2"].file
    torch.save(network.state_dict(), file)
    weights = facenet.import_official(file, tmp_path / "made" / "facenet.safetensors", name="facenet-vggface2")
    assert weights == facenet.declaration(tmp_path / "made" / "facenet.safetensors", name="facenet-vggface2")
    assert "8,631 people" in weights.source
    assert weights.macs == count_macs(on_meta(facenet.inception_resnet_v1), (1, 3, 160, 160))
    with registered(weights):
        assert info("facenet-vggface2").embedding is not None
        loaded = load("facenet-vggface2", device="cpu")
        found = embed(
            fakes.picture((30, 40, 90, 1), (180, 60, 110, 2)), weights="facenet-vggface2", device="cpu", **fakes.align
        )
    assert found.embeddings.shape == (2, 512)
    np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1, atol=1e-5)
    assert found.contract == f"facenet-vggface2@{weights.sha256[:12]}"
    crops = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), np.uint8)
    with torch.no_grad():
        seen = weights.input.tensor(crops)
        torch.testing.assert_close(loaded(seen), network(seen), atol=1e-5, rtol=1e-4)


def test_variables_of_tensorflow_come_from_npz(tmp_path: Path) -> None:
    torch.manual_seed(0)
    variables = as_tensorflow(facenet.inception_resnet_v1(dim=8).state_dict())
    np.savez(tmp_path / "variables.npz", **variables)
    weights = facenet.import_official(tmp_path / "variables.npz", tmp_path / "out.safetensors")
    assert weights.embedding is not None
    assert weights.embedding.dim == 8
    assert dict(weights.arguments) == {"dim": 8}
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match="broken"):
        facenet.import_official(tmp_path / "broken.npz", tmp_path / "out.safetensors")
    with pytest.raises(OptionError, match="safetensors"):
        facenet.import_official(tmp_path / "variables.npz", tmp_path / "out.pt")
    with pytest.raises(CheckpointError, match="nowhere"):
        facenet.declaration(tmp_path / "nowhere.safetensors")


# --- Golden tensors --------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_inception_resnet_answers_as_the_released_code_does(golden: Any) -> None:
    state, inputs, outputs, _ = golden("facenet")
    network = facenet.inception_resnet_v1()
    network.load_state_dict(facenet.convert_official(state), strict=True)
    network.eval()
    seen: dict[str, Tensor] = {}
    for name in ("repeat_1", "repeat_2", "block8"):
        network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.__setitem__(name, out.mean((2, 3)))
        )
    with torch.no_grad():
        seen["last_bn"] = network.features(inputs["image"])
        seen["embedding"] = F.normalize(seen["last_bn"], dim=1)
        torch.testing.assert_close(network(inputs["image"]), seen["embedding"])
    assert seen.keys() == outputs.keys()
    for name, want in outputs.items():
        assert float((seen[name] - want).abs().max()) <= 2e-5 * float(want.abs().max()), name
