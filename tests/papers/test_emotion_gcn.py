"""Emotion-GCN: the graph, the convolutions and the loss derived again, sizes, converters, golden tensors, readers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import mien
from mien.errors import CheckpointError, OptionError, ShapeError, ValueRangeError, WeightsUnavailable
from mien.faces import EXPRESSIONS
from mien.nn.affect import DenseFeatures, GraphNetwork, affect_network, fill_features
from mien.nn.bregnext import BoundedShortcut, BReGLayer, BReGNeXt
from mien.nn.count import count_macs, count_parameters
from mien.nn.label_graph import GraphHead
from mien.papers import emotion_gcn
from mien.weights import build, registered

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {**emotion_gcn.DENSE, **emotion_gcn.GRAPH}


def on_meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        made: nn.Module = getattr(emotion_gcn, name)(**options)
    return made


# --- The graph -------------------------------------------------------------------------------------------------------


def test_affectnet_s_graph_is_the_paper_s() -> None:
    """Every emotion is linked with both, but happiness with valence and surprise with arousal alone."""
    a = emotion_gcn.adjacency(emotion_gcn.edges(emotion_gcn.affectnet_correlations(), classes=7))
    want = np.zeros((9, 9))
    for row in range(7):
        want[row, row] = 0.5
        want[row, 7:] = {1: (0.5, 0), 3: (0, 0.5)}.get(row, (0.25, 0.25))
    for node, without in ((7, 3), (8, 1)):
        want[node, [row for row in range(7) if row != without]] = 0.5 / 6
        want[node, node] = 0.5
    assert np.abs(a - want).max() < 1e-12
    assert np.allclose(a.sum(1), 1)
    p = emotion_gcn.propagation(a)
    assert np.allclose(p, a.T)  # an emotion receives 0.0833 of valence, which receives 0.25 of it
    assert (round(float(p[0, 7]), 4), p[7, 0], p[7, 1]) == (0.0833, 0.25, 0.5)
    assert torch.equal(emotion_gcn.label_graph(), torch.from_numpy(p).float())


def test_propagation_is_the_formula_with_diagonal_matrices() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(0.1, 1, (5, 5))
    d = np.diag(a.sum(1) ** -0.5)
    assert np.allclose(emotion_gcn.propagation(a), (a @ d).T @ d)
    symmetric = emotion_gcn.propagation(a, kind="symmetric")
    assert np.allclose(symmetric, symmetric.T)
    assert np.array_equal(emotion_gcn.propagation(a, kind="none"), np.eye(5))
    with pytest.raises(OptionError, match="unknown propagation"):
        emotion_gcn.propagation(a, kind="both")  # type: ignore[arg-type]


def test_a_label_without_neighbours_keeps_all_of_itself() -> None:
    linked = emotion_gcn.edges(np.eye(4), classes=2)
    assert not linked.any()
    assert np.array_equal(emotion_gcn.adjacency(linked), np.eye(4))
    few = np.eye(4)
    few[0, 2] = few[2, 0] = -0.4  # the sign does not count
    few[0, 1] = few[1, 0] = 0.9  # two classes
    assert emotion_gcn.edges(few, classes=2).sum() == 2
    assert emotion_gcn.edges(few, classes=2, between_classes=True).sum() == 4
    assert emotion_gcn.edges(few, classes=2, threshold=0.5).sum() == 0
    a = emotion_gcn.adjacency(emotion_gcn.edges(few, classes=2), share=0.25)
    assert a[0].tolist() == [0.75, 0, 0.25, 0]
    with pytest.raises(OptionError, match="0 to 1"):
        emotion_gcn.adjacency(linked, share=2)
    with pytest.raises(ShapeError, match="square"):
        emotion_gcn.edges(np.ones((2, 3)), classes=2)


def naive_ranks(values: list[float]) -> list[float]:
    return [1 + sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_correlations_are_those_of_loops(kind: Any) -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(-1, 6, 60)  # the last class never occurs
    va = np.round(rng.normal(0, 0.5, (60, 2)), 1)
    va[3] = np.nan
    found = emotion_gcn.correlations(y, va, classes=7, kind=kind)
    keep = [row for row in range(60) if y[row] >= 0 and row != 3]
    columns: list[list[float]] = [[float(y[row] == c) for row in keep] for c in range(7)]
    columns += [[float(va[row, k]) for row in keep] for k in range(2)]
    if kind == "spearman":
        columns = [naive_ranks(column) for column in columns]
    for i, one in enumerate(columns):
        for j, two in enumerate(columns):
            mi, mj = sum(one) / len(one), sum(two) / len(two)
            top = sum((a - mi) * (b - mj) for a, b in zip(one, two, strict=True))
            under = math.sqrt(sum((a - mi) ** 2 for a in one) * sum((b - mj) ** 2 for b in two))
            want = 1.0 if i == j else top / under if under else 0.0
            assert found[i, j] == pytest.approx(want, abs=1e-12)


def test_correlations_of_classes_follow_from_their_counts() -> None:
    y = np.repeat(np.arange(7), np.asarray(emotion_gcn.AFFECTNET_COUNTS) // 100)
    found = emotion_gcn.correlations(y, np.random.default_rng(0).normal(size=(len(y), 2)), classes=7)
    assert np.abs(found[:7, :7] - emotion_gcn.affectnet_correlations()[:7, :7]).max() < 2e-3
    with pytest.raises(ShapeError, match="do not fit"):
        emotion_gcn.correlations(y, np.zeros((3, 2)))
    with pytest.raises(ValueRangeError, match="out of range"):
        emotion_gcn.correlations([7, 1], np.zeros((2, 2)))
    with pytest.raises(ValueRangeError, match="too few"):
        emotion_gcn.correlations([-1, 1], np.zeros((2, 2)))
    with pytest.raises(OptionError, match="unknown correlation"):
        emotion_gcn.correlations([0, 1], np.zeros((2, 2)), kind="kendall")  # type: ignore[arg-type]


def head_of(k: int = 5) -> GraphHead:
    torch.manual_seed(0)
    graph = torch.rand(k, k)
    return GraphHead(torch.randn(k, 4), graph, hidden=3, outputs=6).double()


def test_graph_convolutions_are_those_of_loops_gradients_too() -> None:
    head = head_of()
    got = head()
    probe = torch.randn(5, 6, dtype=torch.float64)
    (got * probe).sum().backward()
    w1, w2 = (w.detach().clone().requires_grad_() for w in (head.gc1.weight, head.gc2.weight))
    e, p = head.vectors, head.graph

    def convolved(x: list[list[Tensor]], w: Tensor) -> list[list[Tensor]]:
        product = [[sum((x[i][a] * w[a, b] for a in range(len(w))), w.new_zeros(())) for b in range(w.shape[1])]
                   for i in range(5)]  # fmt: skip
        return [[sum((p[i, j] * product[j][b] for j in range(5)), w.new_zeros(())) for b in range(w.shape[1])]
                for i in range(5)]  # fmt: skip

    first = convolved([list(row) for row in e], w1)
    rectified = [[v if v > 0 else 0.2 * v for v in row] for row in first]
    want = torch.stack([torch.stack(row) for row in convolved(rectified, w2)])
    torch.testing.assert_close(got, want)
    (want * probe).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(head.gc1.weight.grad, w1.grad)
    torch.testing.assert_close(head.gc2.weight.grad, w2.grad)
    assert {name for name, _ in head.named_parameters()} == {"gc1.weight", "gc2.weight"}  # A and words do not learn
    assert head.gc1.weight.abs().max() <= 1 / math.sqrt(3)


def test_nodes_in_another_order_give_the_same_answers_in_that_order() -> None:
    head = head_of()
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = GraphHead(head.vectors[order], head.graph[order][:, order], hidden=3, outputs=6).double()
    moved.load_state_dict({**moved.state_dict(), "gc1.weight": head.gc1.weight, "gc2.weight": head.gc2.weight})
    moved.vectors.copy_(head.vectors[order])
    moved.graph.copy_(head.graph[order][:, order])
    torch.testing.assert_close(moved(), head()[order])
    with pytest.raises(ShapeError, match="do not fit"):
        GraphHead(torch.zeros(4, 3), torch.zeros(5, 5))


def test_the_cached_reader_gives_what_the_graph_gives() -> None:
    torch.manual_seed(0)
    network = emotion_gcn.emotion_gcn(**SMALL).eval()
    x = torch.randn(3, 3, 48, 48)
    ready = emotion_gcn.cached(network)
    torch.testing.assert_close(ready(x), network(x))
    reader = emotion_gcn.affect_reader(**emotion_gcn.DENSE).eval()
    reader.load_state_dict(ready.state_dict())
    assert torch.equal(reader(x), ready(x))
    (w,) = [value for name, value in reader.state_dict().items() if name.startswith("labels")]
    assert w.shape[0] == 9


def test_stand_ins_belong_to_their_words() -> None:
    some = emotion_gcn.stand_in_vectors(("fear", "anger"))
    again = emotion_gcn.stand_in_vectors(("anger", "Fear"))
    assert torch.equal(some[0], again[1])
    assert torch.equal(some[1], again[0])
    assert some.shape == (2, 300)
    assert 0.3 < float(some.std()) < 0.4
    assert emotion_gcn.nodes(8)[6:] == ("anger", "contempt", "valence", "arousal")


# --- Networks --------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_paper() -> None:
    page = (ROOT / "docs" / "papers" / "emotion_gcn.md").read_text("utf-8")
    for name, parameters, size in (
        ("emotion_gcn", 7_631_744, 227), ("emotion_gcn_bregnext", 3_290_800, 112), ("multi_task", 6_963_081, 227),
        ("single_task", 6_961_031, 227), ("affect_reader", 6_963_072, 227),
    ):  # fmt: skip
        network = on_meta(name)
        assert count_parameters(network) == parameters
        (line,) = [row for row in page.splitlines() if row.startswith(f"| `{name}`")]
        assert f"{parameters:,}" in line
        assert f"{count_macs(network, (1, 3, size, size)) / 1e9:.1f} |" in line
    with torch.device("meta"):
        assert count_parameters(BReGNeXt()) == 3_071_664
        assert count_parameters(DenseFeatures()) == 6_953_856


def test_features_are_largest_values_and_those_of_the_baselines_rectified_means() -> None:
    torch.manual_seed(0)
    plain = DenseFeatures(**emotion_gcn.DENSE).eval()
    rectified = DenseFeatures(**emotion_gcn.DENSE, rectified=True).eval()
    rectified.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 227, 227)
    with torch.no_grad():
        maps = plain.features(x)
        want = F.max_pool2d(maps, maps.shape[2]).flatten(1)
        assert torch.equal(plain(x), want)
        assert (want < 0).any()  # not rectified
        torch.testing.assert_close(rectified(x), F.adaptive_avg_pool2d(F.relu(maps), 1).flatten(1))
    assert emotion_gcn.single_task(**emotion_gcn.DENSE)(x).shape == (2, 7)
    assert emotion_gcn.multi_task(**emotion_gcn.DENSE, classes=8)(x).shape == (2, 10)


def test_bounded_shortcuts_are_the_formula_with_bounded_slope() -> None:
    short = BoundedShortcut(stride=2, more=4).double()
    nn.init.constant_(short.a, 1.7)
    nn.init.constant_(short.c, 0.6)
    x = (10 * torch.randn(2, 3, 4, 4, dtype=torch.float64)).requires_grad_()
    got = short(x)
    root = math.sqrt(0.6**2 + 1)
    want = torch.zeros(2, 7, 2, 2, dtype=torch.float64)
    for n in range(2):
        for c in range(3):
            for i in range(2):
                for j in range(2):
                    pixels = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].detach().flatten().tolist()
                    bounded = [math.atan(1.7 * v / root) / (1.7 * root) for v in pixels]
                    want[n, c + 2, i, j] = sum(bounded) / 4  # two of the four new channels stand before
    torch.testing.assert_close(got, want)
    assert torch.autograd.gradcheck(short, x)


def test_a_layer_rectifies_before_its_convolutions_and_not_after_them() -> None:
    torch.manual_seed(0)
    layer = BReGLayer(8, 12, stride=2).eval()
    with torch.no_grad():
        for value in layer.state_dict().values():
            if value.is_floating_point() and value.ndim:
                value.add_(0.3 * torch.rand_like(value))
        x = torch.randn(2, 8, 6, 6)

        def norm(x: Tensor, n: nn.BatchNorm2d) -> Tensor:
            mean, var, w, b = (v[:, None, None] for v in (n.running_mean, n.running_var, n.weight, n.bias))  # type: ignore[index]
            return (x - mean) / (var + 1e-5).sqrt() * w + b

        def elu(x: Tensor) -> Tensor:
            return torch.where(x > 0, x, x.exp() - 1)

        hidden = F.conv2d(F.pad(elu(norm(x, layer.norm1)), (1, 1, 1, 1)), layer.conv1.weight, layer.conv1.bias, 2)
        hidden = F.conv2d(F.pad(elu(norm(hidden, layer.norm2)), (1, 1, 1, 1)), layer.conv2.weight, layer.conv2.bias)
        torch.testing.assert_close(layer(x), hidden + layer.shortcut(x), atol=1e-5, rtol=1e-4)
    assert BReGNeXt(widths=(8, 16), depths=(1, 1))(torch.randn(1, 3, 15, 15)).shape == (1, 16)  # an odd side too
    with pytest.raises(OptionError, match="widths and depths"):
        BReGNeXt(widths=(16, 8), depths=(1, 1))


@pytest.mark.parametrize(
    ("options", "match"),
    [({"head": "two"}, "unknown head"), ({"classes": 6}, "7, or 8"), ({"backbone": "vgg"}, "unknown features")],
)
def test_wrong_networks_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        affect_network(**{"head": "graph", **emotion_gcn.DENSE, **options})
    with pytest.raises(ShapeError, match="word vector"):
        affect_network("graph", **emotion_gcn.DENSE, vectors=torch.zeros(8, 5), graph=torch.eye(8))


def test_imagenet_s_weights_begin_the_features(tmp_path: Path) -> None:
    source = DenseFeatures(**emotion_gcn.DENSE)
    state = {}
    for name, value in source.state_dict().items():
        for part in ("norm", "conv"):
            for number in "12":
                if "denselayer" in name:
                    name = name.replace(f".{part}{number}.", f".{part}.{number}.")  # torchvision's old names
        state[name] = value
    assert any(".norm.1." in name for name in state)
    torch.save({**state, "classifier.weight": torch.zeros(3), "classifier.bias": torch.zeros(3)}, tmp_path / "d.pth")
    into = DenseFeatures(**emotion_gcn.DENSE)
    fill_features(into, tmp_path / "d.pth")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in into.state_dict().items())
    save_file({k: v.contiguous() for k, v in list(source.state_dict().items())[1:]}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"conv0\.weight"):
        fill_features(into, tmp_path / "less.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot read"):
        fill_features(into, tmp_path / "broken.pth")
    with pytest.raises(OptionError, match="BReGNeXt"):
        fill_features(BReGNeXt(widths=(8,), depths=(1,)), tmp_path / "d.pth")


# --- The loss --------------------------------------------------------------------------------------------------------


def naive_ccc(f: list[float], t: list[float], official: bool) -> float:
    n = len(f)
    mf, mt = sum(f) / n, sum(t) / n
    cov = sum((a - mf) * (b - mt) for a, b in zip(f, t, strict=True)) / n
    by = n - 1 if official else n
    var = sum((a - mf) ** 2 for a in f) / by + sum((b - mt) ** 2 for b in t) / by
    return 2 * cov / (var + (mf - mt) ** 2)


@pytest.mark.parametrize("official", [False, True])
def test_concordance_is_that_of_loops(official: bool) -> None:
    torch.manual_seed(0)
    f = torch.randn(9, dtype=torch.float64, requires_grad=True)
    t = torch.randn(9, dtype=torch.float64)
    found = emotion_gcn.concordance(f, t, official=official)
    assert float(found.detach()) == pytest.approx(naive_ccc(f.tolist(), t.tolist(), official), abs=1e-14)
    assert torch.autograd.gradcheck(lambda x: emotion_gcn.concordance(x, t, official=official), f)
    x = torch.randn(35)
    perfect = float(emotion_gcn.concordance(x, x, official=official))
    assert perfect == pytest.approx(34 / 35 if official else 1, abs=1e-12)
    constant = torch.ones(4, requires_grad=True)
    emotion_gcn.concordance(constant, torch.ones(4), official=official).backward()  # type: ignore[no-untyped-call]
    assert constant.grad is not None
    assert bool(torch.isfinite(constant.grad).all())


@pytest.mark.parametrize("official", [False, True])
def test_the_loss_and_its_slope_are_those_of_loops(official: bool) -> None:
    torch.manual_seed(1)
    raw = torch.randn(8, 9, dtype=torch.float64)
    y = torch.tensor([0, 3, -1, 6, 2, 2, -1, 5])
    va = torch.rand(8, 2, dtype=torch.float64) * 2 - 1
    va[4, 1] = float("nan")
    w = torch.rand(7, dtype=torch.float64)

    def naive(raw: Tensor) -> float:
        top = bottom = 0.0
        for row in range(8):
            if y[row] >= 0:
                z = raw[row, :7].tolist()
                top += float(w[y[row]]) * (math.log(sum(math.exp(v) for v in z)) - z[y[row]])
                bottom += float(w[y[row]])
        rows = [row for row in range(8) if row != 4]
        ccc = [naive_ccc(raw[rows, 7 + k].tolist(), va[rows, k].tolist(), official) for k in range(2)]
        return top / bottom + 0.7 * (1 - sum(ccc) / 2)

    given = raw.float().requires_grad_()
    loss, parts = emotion_gcn.affect_loss(given, y, va, classes=7, class_weights=w, weight=0.7, official=official)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(naive(raw), abs=1e-6)
    assert set(parts) == {"classes", "ccc_valence", "ccc_arousal"}
    for row in range(8):
        for column in range(9):
            step = torch.zeros_like(raw)
            step[row, column] = 1e-5
            slope = (naive(raw + step) - naive(raw - step)) / 2e-5
            assert float(given.grad[row, column]) == pytest.approx(slope, abs=2e-6)  # type: ignore[index]


def test_what_is_not_known_has_no_part_in_the_loss() -> None:
    raw = torch.randn(4, 9, requires_grad=True)
    none = torch.full((4,), -1)
    va = torch.full((4, 2), float("nan"))
    loss, parts = emotion_gcn.affect_loss(raw, none, va, classes=7)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert not raw.grad.any()  # type: ignore[union-attr]
    assert "ccc_valence" not in parts
    single, _ = emotion_gcn.affect_loss(raw[:, :7], torch.arange(4), va, classes=7)
    torch.testing.assert_close(single, F.cross_entropy(raw[:, :7], torch.arange(4)))


# --- Golden tensors --------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_the_graph_is_the_released_one(golden: Any) -> None:
    _, given, want, _ = golden("emotion-gcn-adjacency")
    a = emotion_gcn.adjacency(emotion_gcn.edges(given["correlation"], classes=7))
    assert np.abs(a - np.asarray(want["A"])).max() < 1e-6
    assert np.abs(emotion_gcn.propagation(a) - np.asarray(want["A_propagation"])).max() < 1e-6
    assert np.abs(emotion_gcn.affectnet_correlations() - np.asarray(given["correlation"])).max() <= 5e-4


@pytest.mark.data
def test_the_loss_is_the_released_one(golden: Any) -> None:
    from mien.data.affect import class_weights

    _, given, want, facts = golden("emotion-gcn-loss")
    weights = class_weights(emotion_gcn.AFFECTNET_COUNTS)
    assert np.allclose(weights, facts["class_weights"], atol=1e-7)
    logits = torch.as_tensor(given["logits"]).clone().requires_grad_()
    va = torch.as_tensor(given["valence_arousal"]).clone().requires_grad_()
    loss, parts = emotion_gcn.affect_loss(
        torch.cat([logits, va], 1), torch.as_tensor(given["labels"]), torch.as_tensor(given["valence_arousal_true"]),
        classes=7, class_weights=torch.from_numpy(weights), official=True,
    )  # fmt: skip
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(float(want["loss"]), abs=1e-6)
    assert float(parts["classes"]) == pytest.approx(float(want["loss_categorical"]), abs=1e-6)
    got = torch.stack([parts["ccc_valence"], parts["ccc_arousal"]])
    torch.testing.assert_close(got, torch.as_tensor(want["ccc"]), atol=1e-6, rtol=0)
    torch.testing.assert_close(logits.grad, torch.as_tensor(want["grad_logits"]), atol=1e-6, rtol=0)
    torch.testing.assert_close(va.grad, torch.as_tensor(want["grad_valence_arousal"]), atol=1e-6, rtol=0)


@pytest.mark.data
@pytest.mark.parametrize("name", ["emotion-gcn-densenet", "emotion-gcn-multitask"])
def test_released_networks_are_ours(golden: Any, name: str) -> None:
    state, given, want, _ = golden(name)
    shape = emotion_gcn.shape_of({key: torch.as_tensor(value) for key, value in state.items()})
    network = getattr(emotion_gcn, shape.builder)(**shape.arguments)
    words = torch.as_tensor(given["embeddings"]) if "embeddings" in given else None
    network.load_state_dict(emotion_gcn.convert_official(state, vectors=words))
    network.eval()
    expected = torch.cat([torch.as_tensor(want["logits"]), torch.as_tensor(want["valence_arousal"])], 1)
    image = torch.as_tensor(given["image"])
    with torch.no_grad():
        got = network(image)
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
        if isinstance(network, GraphNetwork):
            for found, key in ((network.backbone(image), "feature"), (network.head(), "node_vectors")):
                truth = torch.as_tensor(want[key])
                assert (found - truth).abs().max() <= 1e-5 * truth.abs().max()


# --- Released names --------------------------------------------------------------------------------------------------


def released_densenet(classes: int = 7) -> tuple[dict[str, Any], nn.Module]:
    """A small network of ours in the released layout."""
    torch.manual_seed(0)
    network = emotion_gcn.emotion_gcn(**SMALL, classes=classes).eval()
    state: dict[str, Any] = {}
    for name, value in network.state_dict().items():
        if name == "head.graph":
            state["A"] = value.T.contiguous()
        elif name != "head.vectors":
            state[name.removeprefix("backbone.").removeprefix("head.")] = value
    return state, network


def released_breg() -> tuple[dict[str, Any], nn.Module]:
    torch.manual_seed(0)
    network = emotion_gcn.emotion_gcn_bregnext(widths=(8, 12, 16), depths=(2, 1, 2), **emotion_gcn.GRAPH).eval()
    inner = {"norm1": "_batchnorm_conv0", "conv1": "_conv0", "norm2": "_batchnorm_conv1", "conv2": "_conv1",
             "shortcut.a": "_shortcut._a", "shortcut.c": "_shortcut._c"}  # fmt: skip
    places = [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0), (4, 0), (4, 1)]
    state: dict[str, Any] = {"model._fc0.weight": torch.zeros(7, 16), "model._fc0.bias": torch.zeros(7)}
    for name, value in network.state_dict().items():
        if name == "head.graph":
            state["A"] = value.T.contiguous()
        elif name.startswith("head.gc"):
            state[name.removeprefix("head.")] = value
        elif name.startswith("backbone.stem."):
            state[name.replace("backbone.stem.", "model._conv0.")] = value
        elif name.startswith("backbone.norm."):
            state[name.replace("backbone.norm.", "model._model.5.")] = value
        elif name.startswith("backbone.layers."):
            number, _, rest = name.removeprefix("backbone.layers.").partition(".")
            stack, layer = places[int(number)]
            for ours, theirs in inner.items():
                if rest == ours or rest.startswith(f"{ours}."):
                    state[f"model._model.{stack}._layer_stack.{layer}.{theirs}{rest.removeprefix(ours)}"] = value
    return state, network


@pytest.mark.parametrize("made", [released_densenet, released_breg])
def test_released_graphs_are_converted_key_by_key(made: Any) -> None:
    state, network = made()
    shape = emotion_gcn.shape_of(state)
    wrapped = {"epoch": 3, "model_state_dict": {f"module.{k}": v for k, v in state.items()}, "optimizer_state_dict": {}}
    for given in (state, wrapped):
        converted = emotion_gcn.convert_official(given, vectors=network.head.vectors)
        other = getattr(emotion_gcn, shape.builder)(**shape.arguments).eval()
        other.load_state_dict(converted)
        x = torch.randn(2, 3, 48, 48)
        with torch.no_grad():
            torch.testing.assert_close(other(x), network(x), atol=1e-6, rtol=1e-5)
    assert set(network.state_dict()) - set(emotion_gcn.convert_official(state)) == {"head.vectors"}


def test_a_released_baseline_is_converted() -> None:
    network = emotion_gcn.multi_task(**emotion_gcn.DENSE)
    state = {
        name.replace("backbone.features.", "model_base.")
        .replace("classes.", "lin_cat.")
        .replace("affect.", "lin_cont."): v
        for name, v in network.state_dict().items()
    }
    converted = emotion_gcn.convert_official(state)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in converted.items())
    assert emotion_gcn.shape_of(state).builder == "multi_task"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"gc2.weight": None}, "missing.*gc2"),
        ({"features.norm5.running_mean": None}, "missing.*norm5"),
        ({"head.bias": torch.zeros(9)}, r"unknown.*head\.bias"),
        ({"A": torch.eye(9)[:, :8]}, "no matrix of edges"),
        ({"gc2.weight": torch.zeros(16, 7)}, "another shape"),
        ({"gc1.weight": torch.full((24, 16), float("nan"))}, "not finite"),
        ({"epoch": 3}, "no tensors"),
        ({"model._fc0.bias": torch.zeros(7), "model._model.9.weight": torch.zeros(2)}, r"unknown.*_model\.9"),
    ],
)
def test_other_checkpoints_are_refused(change: dict[str, Any], match: str) -> None:
    state, _ = released_densenet()
    changed = {name: value for name, value in {**state, **change}.items() if value is not None}
    with pytest.raises(CheckpointError, match=match):
        emotion_gcn.convert_official(changed)


# --- Readers ---------------------------------------------------------------------------------------------------------


def test_answers_are_named() -> None:
    raw = np.array([[0, 3, 0, 0, 0, 0, 0, 1.4, -0.2]], np.float32)
    columns = emotion_gcn.decode(raw, {})
    assert columns["expressions"].shape == (1, 8)
    p = math.exp(3) / (math.exp(3) + 6)
    assert columns["expressions"][0, EXPRESSIONS.index("happiness")] == pytest.approx(p)
    assert columns["expressions"][0, EXPRESSIONS.index("contempt")] == 0
    assert columns["affect"].tolist() == [[1.0, pytest.approx(-0.2)]]
    softer = emotion_gcn.decode(raw, {"expression": 3.0})["expressions"][0, EXPRESSIONS.index("happiness")]
    assert softer == pytest.approx(math.e / (math.e + 6))
    eight = emotion_gcn.decode(np.eye(10, dtype=np.float32)[[4, 7]] * 50, {})
    assert [EXPRESSIONS[k] for k in eight["expressions"].argmax(1)] == ["fear", "contempt"]
    assert set(emotion_gcn.decode(raw[:, :7], {})) == {"expressions"}
    assert emotion_gcn.decode(raw[:0], {})["expressions"].shape == (0, 8)


def test_a_released_checkpoint_reads_faces(tmp_path: Path, fakes: Any) -> None:
    state, network = released_densenet()
    file = tmp_path / "best.pt"
    torch.save({"epoch": 1, "model_state_dict": state, "optimizer_state_dict": {"lr": 1.0}}, file)
    with pytest.raises(WeightsUnavailable, match=r"emb\.pkl"):
        emotion_gcn.import_official(file, tmp_path / "x.safetensors")
    np.save(tmp_path / "emb.npy", network.head.vectors.numpy())  # type: ignore[operator, union-attr]
    weights = emotion_gcn.import_official(file, tmp_path / "out" / "x.safetensors", name="emotions", size=64)
    assert (weights.task, weights.input.size, weights.input.template) == ("reading", 64, "chip112")
    assert emotion_gcn.import_official(file, tmp_path / "y.safetensors").input.size == 227
    assert not any("gc1" in name for name in load_file(tmp_path / "out" / "x.safetensors"))
    with registered(weights):
        ready = build("emotions")
        ready.load_state_dict(load_file(tmp_path / "out" / "x.safetensors"), strict=False)
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(ready.eval()(x), network(x), atol=1e-6, rtol=1e-5)
        picture = fakes.picture((40, 40, 80, 1), (180, 60, 90, 2))
        faces = mien.analyze([picture], reader="emotions", **{**fakes.analyze, "read": True})
        assert faces.expressions.shape == (2, 8)
        assert np.allclose(faces.expressions.sum(1), 1, atol=1e-5)
        assert np.abs(faces.affect).max() <= 1
        assert not hasattr(faces, "age")
    with pytest.raises(OptionError, match="safetensors"):
        emotion_gcn.import_official(file, tmp_path / "x.pt")


def test_a_graph_of_other_data_is_of_aff_wild2_and_breg_next_is_small(tmp_path: Path) -> None:
    state, network = released_densenet()
    np.save(tmp_path / "emb.npy", network.head.vectors.numpy())  # type: ignore[operator, union-attr]
    torch.save({"model_state_dict": {**state, "A": torch.full((9, 9), 1 / 9)}}, tmp_path / "wild.pt")
    wild = emotion_gcn.import_official(tmp_path / "wild.pt", tmp_path / "wild.safetensors")
    assert (wild.input.size, wild.input.template) == (112, "arcface112")
    state, _ = released_breg()
    torch.save({"model_state_dict": state}, tmp_path / "breg.pt")
    small = emotion_gcn.import_official(tmp_path / "breg.pt", tmp_path / "breg.safetensors")
    assert (small.input.size, small.arguments["backbone"]) == (112, "bregnext50")
    assert emotion_gcn.declaration(tmp_path / "breg.safetensors").sha256 == small.sha256
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="import_official"):
        emotion_gcn.declaration(tmp_path / "other.safetensors")


@pytest.mark.parametrize("head", ["graph", "multi", "single"])
def test_a_run_of_our_own_reads_faces(tmp_path: Path, head: str) -> None:
    from mien.train.loop import fit
    from mien.train.recipes.affect import AffectRecipe

    run = AffectRecipe.make(
        preset="small", out=str(tmp_path), head=head, heads=14, checked=7, size=32, growth=8, blocks="1,1", width=8,
        steps=2, batch_size=7, workers=0, threads=1, tensorboard="no", device="cpu",
    )  # fmt: skip
    result = fit(run)
    for file in (result.weights, tmp_path / "best.safetensors"):
        weights = emotion_gcn.import_official(file, tmp_path / "reader.safetensors", name="own")
        with registered(weights):
            ready = build("own").eval()
            ready.load_state_dict(load_file(weights.file or ""), strict=False)
        network = run.build()
        network.load_state_dict(load_file(file), strict=False)
        x = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(ready(x), network.eval()(x), atol=1e-5, rtol=1e-5)
        assert weights.licence == "that of your training data"
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "growth"}))
    with pytest.raises(CheckpointError, match="growth"):
        emotion_gcn.import_official(result.weights, tmp_path / "reader.safetensors")
