"""SwinFace: sizes, levels, branches, losses derived again, converters, golden tensors, streams, the verbs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, ShapeError
from mien.faces import APPEARANCE, EXPRESSIONS
from mien.nn.count import count_parameters
from mien.nn.streams import MALE
from mien.papers import swinface
from mien.papers.swinface.network import Stacked, shares
from mien.train.classes import PartialFC, cosface

SMALL = swinface.SMALL
GOLDEN_NAMES = {"Gender": "Male", "Five O'Clock Shadow": "5_o_Clock_Shadow"}


def on_meta(build: Any, **options: Any) -> nn.Module:
    """A network of which no number is held."""
    with torch.device("meta"):
        made: nn.Module = build(**options)
    return made


def small(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    made = swinface.swinface(**{**SMALL, **options}).eval()
    for name, value in made.named_buffers():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    return made


# --- Networks --------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_released_network_without_its_dead_classifier() -> None:
    made: Any = on_meta(swinface.swinface)
    dead = 768 * 512 + 512
    assert count_parameters(made) == 67_415_538
    assert f"{(count_parameters(made) + dead) / 1e6:.2f}" == "67.81"
    assert f"{(count_parameters(made.backbone) + dead) / 1e6:.2f}" == "28.90"
    parts = (made.analysis.mlca, made.analysis.subnets, made.analysis.answers)
    assert [f"{count_parameters(part) / 1e6:.2f}" for part in parts] == ["33.09", "5.78", "0.05"]
    assert made.backbone.widths == (192, 384, 768, 768)
    page = (Path(__file__).parents[2] / "docs" / "papers" / "swinface.md").read_text("utf-8")
    for name in ("swinface", "swinface_reading", "swin_t"):
        (line,) = [row for row in page.splitlines() if row.startswith(f"| `{name}`")]
        assert f"{count_parameters(on_meta(getattr(swinface, name))):,}" in line


def test_levels_are_taken_behind_the_merging_of_patches() -> None:
    made: Any = on_meta(swinface.swinface)
    levels = made.backbone.levels(torch.zeros(1, 3, 112, 112, device="meta"))
    assert [tuple(level.shape[1:]) for level in levels] == [(784, 192), (196, 384), (49, 768), (49, 768)]
    assert made.backbone.joined(levels).shape == (1, 2112, 7, 7)


def test_recognition_normalises_the_last_level_and_analysis_does_not() -> None:
    made = small()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = made(x)
        nn.init.constant_(made.backbone.norm.weight, 0.3)
        after = made(x)
    assert not torch.allclose(before["recognition"], after["recognition"])
    assert all(torch.equal(before[name], after[name]) for name in ("age", "attributes", "expression"))


def test_answers_have_one_order_and_every_task_one_place() -> None:
    tasks = [task for branch in swinface.BRANCHES for task in branch]
    assert len(swinface.BRANCHES) == 11
    assert sorted(tasks) == sorted((*swinface.ATTRIBUTES, "Age", "Expression"))
    made = small()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        branches = made.analysis.subnets(made.analysis.mlca(made.backbone.joined(made.backbone.levels(x))))
        found = made(x)
        for number, names in enumerate(swinface.BRANCHES):
            told = made.analysis.answers[number](branches[:, number])
            start = 0
            for name in names:
                width = {"Age": 1, "Expression": 7}.get(name, 2)
                part, start = told[:, start : start + width], start + width
                got = (
                    found["age"] if name == "Age" else found["expression"] if name == "Expression"
                    else found["attributes"][:, swinface.ATTRIBUTES.index(name)]
                )  # fmt: skip
                torch.testing.assert_close(got, part)


@pytest.mark.parametrize("options", [{}, {"gate": False}, {"spatial": True}, {"split": False}])
def test_branches_together_are_branches_one_by_one(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    widths, dim = (6, 8, 10), 12
    mlca = swinface.MLCA(widths, branches=3, dim=dim, hidden=4, **options).eval().double()
    for name, value in mlca.named_buffers():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    maps = torch.randn(2, sum(widths), 4, 4, dtype=torch.float64)
    parts = widths if options.get("split", True) else (sum(widths),)
    cuts = shares(dim, parts)
    for branch in range(3):
        levels = [
            F.conv2d(level, conv.weight[branch * cut : (branch + 1) * cut], padding=1)
            for level, conv, cut in zip(maps.split(parts, 1), mlca.convs, cuts, strict=True)
        ]
        x = torch.cat(levels, 1)
        if options.get("gate", True):
            one, two = mlca.gate[0], mlca.gate[2]

            def mlp(v: Tensor, one: Any = one, two: Any = two, branch: int = branch) -> Tensor:
                hidden = F.relu(F.linear(v, one.weight[branch], one.bias[4 * branch : 4 * branch + 4]))
                return F.linear(hidden, two.weight[branch], two.bias[dim * branch : dim * branch + dim])

            weight = torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))))
            x = x * weight[:, :, None, None]
        if options.get("spatial"):
            places, norm = mlca.spatial
            seen_there = torch.stack([x.amax(1), x.mean(1)], 1)
            score = F.conv2d(seen_there, places.weight[branch : branch + 1], padding=3)
            score = (score - norm.running_mean[branch]) / (norm.running_var[branch] + norm.eps).sqrt()
            x = x * torch.sigmoid(score * norm.weight[branch] + norm.bias[branch])
        pooled = F.relu(x).amax((2, 3))
        at = slice(branch * dim, (branch + 1) * dim)
        norm = mlca.norm
        want = (pooled - norm.running_mean[at]) / (norm.running_var[at] + 2e-5).sqrt() * norm.weight[at] + norm.bias[at]
        torch.testing.assert_close(mlca(maps)[:, branch], want)


def test_channels_are_dealt_out_as_in_the_released_network() -> None:
    assert shares(512, (192, 384, 768, 768)) == (47, 93, 186, 186)
    assert shares(512, (2112,)) == (512,)
    assert sum(shares(512, (192, 384, 768))) == 512


def test_a_branch_sees_the_levels_that_it_is_given() -> None:
    x = torch.randn(1, 3, 32, 32)
    for feature, seen_ones in (("all", {0, 1, 2, 3}), ("local", {0, 1, 2}), ("global", {3})):
        made = small(feature=feature)
        levels = [level.detach().requires_grad_() for level in made.backbone.levels(x)]
        made.analysis(made.backbone.joined(levels)).sum().backward()
        reached = {k for k, level in enumerate(levels) if level.grad is not None and level.grad.abs().sum() > 0}
        assert reached == seen_ones
    with pytest.raises(OptionError, match="unknown choice of maps"):
        small(feature="none")


def test_stacked_layers_are_linear_layers() -> None:
    torch.manual_seed(0)
    layer = Stacked(3, 5, 4)
    x = torch.randn(2, 3, 5)
    for branch in range(3):
        want = F.linear(x[:, branch], layer.weight[branch], layer.bias[4 * branch : 4 * branch + 4])
        torch.testing.assert_close(layer(x)[:, branch], want)
    bound = 1 / math.sqrt(5)
    assert all(p.abs().max() <= bound for p in layer.parameters())


def test_networks_say_which_input_they_want() -> None:
    with pytest.raises(ShapeError, match="3, 32, 32"):
        small()(torch.rand(1, 3, 48, 48))
    with pytest.raises(OptionError, match="cut into windows"):
        swinface.swin_t(size=100)
    with pytest.raises(OptionError, match="cut into windows"):
        swinface.swin_t(heads=(1, 2))


def test_a_swin_transformer_of_timm_gives_the_same_levels() -> None:
    timm = pytest.importorskip("timm", reason="the extra backbones is not installed")
    torch.manual_seed(0)
    other = timm.models.swin_transformer.SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=16, depths=(2, 2, 2, 2), num_heads=(2, 2, 4, 4),
        num_classes=5,
    ).eval()  # fmt: skip
    tensors = swinface.convert_timm(other.state_dict())
    ours = swinface.swin_t(**swinface.SWIN).eval()
    missing = ours.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("feature.") for name in missing.missing_keys)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        levels = ours.levels(x)
        theirs = other.forward_features(x).flatten(1, 2)
        torch.testing.assert_close(ours.norm(levels[-1]), theirs, atol=1e-5, rtol=1e-4)
        merged = other.layers[1].downsample(other.layers[0](other.patch_embed(x)))
        torch.testing.assert_close(levels[0], merged.flatten(1, 2), atol=1e-5, rtol=1e-4)
    broken = dict(other.state_dict())
    del broken["layers.1.downsample.norm.weight"]
    with pytest.raises(CheckpointError, match=r"missing \(layers.0.downsample.norm.weight\)"):
        swinface.convert_timm(broken)
    wide = {**other.state_dict(), "patch_embed.proj.weight": torch.zeros(16, 3, 4, 4)}
    with pytest.raises(CheckpointError, match="patches are of another size"):
        swinface.convert_timm(wide)


# --- Losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [0.0, 0.1, 0.5, 1.0])
def test_the_age_loss_and_its_gradient(done: float) -> None:
    torch.manual_seed(0)
    age = (torch.rand(9, dtype=torch.float64) * 30).requires_grad_()
    truth = torch.rand(9, dtype=torch.float64) * 30
    loss = swinface.age_loss(age, truth, done)
    (slope,) = torch.autograd.grad(loss, age)
    total, slopes = 0.0, []
    for a, y in zip(age.tolist(), truth.tolist(), strict=True):
        kernel = math.exp(-((a - y) ** 2) / 18)
        total += ((1 - done) / 2 * (a - y) ** 2 + done * (1 - kernel)) / 9
        slopes.append(((1 - done) * (a - y) + done * kernel * (a - y) / 9) / 9)
    assert loss.item() == pytest.approx(total, rel=1e-12)
    torch.testing.assert_close(slope, torch.tensor(slopes, dtype=torch.float64))
    with pytest.raises(OptionError, match="out of its range"):
        swinface.age_loss(age, truth, 1.5)
    with pytest.raises(ShapeError, match="differ in shape"):
        swinface.age_loss(age[:, None], truth, done)


def answers_and_labels(n: int = 12) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    answers = {
        "age": torch.rand(n, 1, generator=generator, dtype=torch.float64) * 50,
        "attributes": torch.randn(n, 40, 2, generator=generator, dtype=torch.float64),
        "expression": torch.randn(n, 7, generator=generator, dtype=torch.float64),
    }
    for value in answers.values():
        value.requires_grad_()
    labels = {
        "age": torch.rand(n, generator=generator, dtype=torch.float64) * 50,
        "attributes": (torch.rand(n, 40, generator=generator) < 0.4).double(),
        "expression": torch.randint(7, (n,), generator=generator),
    }
    labels["age"][4] = math.nan
    labels["attributes"][8, :5] = math.nan
    labels["expression"][10] = -1
    return answers, labels


def test_each_task_looks_at_its_own_rows_alone() -> None:
    """Gender at those of ages and of attributes, the other 39 at those of attributes."""
    answers, labels = answers_and_labels()
    rows = {"people": slice(0, 3), "age": slice(3, 6), "attributes": slice(6, 9), "expression": slice(9, 12)}
    losses = swinface.analysis_losses(answers, labels, rows, done=0.3)
    assert set(losses) == {"Age", "Expression", *swinface.ATTRIBUTES}
    assert len(losses) == 42

    def entropy(logits: list[float], truth: int) -> float:
        return math.log(sum(math.exp(v) for v in logits)) - logits[truth]

    for place, name in enumerate(swinface.ATTRIBUTES):
        mine = range(3, 9) if name == "Male" else range(6, 9)
        each = [
            entropy(answers["attributes"][row, place].tolist(), int(labels["attributes"][row, place]))
            for row in mine
            if not torch.isnan(labels["attributes"][row, place])
        ]
        assert losses[name].item() == pytest.approx(sum(each) / len(each), rel=1e-6)  # in float32
    each = [entropy(answers["expression"][row].tolist(), int(labels["expression"][row])) for row in (9, 11)]
    assert losses["Expression"].item() == pytest.approx(sum(each) / 2, rel=1e-6)
    want = swinface.age_loss(answers["age"][[3, 5], 0], labels["age"][[3, 5]], 0.3)
    assert losses["Age"].item() == pytest.approx(want.item(), rel=1e-6)
    total = torch.stack([value.double() for value in losses.values()]).sum()
    slopes = torch.autograd.grad(total, list(answers.values()))
    touched = [{int(row) for row in slope.flatten(1).abs().sum(1).nonzero()} for slope in slopes]
    assert touched == [{3, 5}, {3, 4, 5, 6, 7, 8}, {9, 11}]
    by_column = slopes[1].abs().sum(2)
    assert {int(c) for c in by_column[3:6].sum(0).nonzero()} == {MALE}
    plain = swinface.analysis_losses(answers, labels, rows, done=0.9, gaussian=False)["Age"]
    want = ((answers["age"][[3, 5], 0] - labels["age"][[3, 5]]) ** 2).mean() / 2
    assert plain.item() == pytest.approx(want.item())


def test_streams_that_are_not_there_give_no_loss_and_unknown_labels_none() -> None:
    answers, labels = answers_and_labels()
    assert set(swinface.analysis_losses(answers, labels, {"age": slice(0, 4)}, done=0.0)) == {"Age", "Male"}
    assert set(swinface.analysis_losses(answers, labels, {"people": slice(0, 4)}, done=0.0)) == set()
    labels["age"][:] = math.nan
    labels["expression"][:] = -1
    labels["attributes"][:] = math.nan
    rows = {"age": slice(0, 4), "attributes": slice(4, 8), "expression": slice(8, 12)}
    losses = swinface.analysis_losses(answers, labels, rows, done=0.5)
    assert all(float(value.detach()) == 0 for value in losses.values())


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def released(made: Any) -> dict[str, Any]:
    """The whole state of a training in the authors' layout, of a network of ours."""
    state = made.state_dict()
    backbone = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    constants = ("relative_position_index", "attn_mask")
    backbone |= {name: value for name, value in made.backbone.named_buffers() if name.endswith(constants)}
    width = made.backbone.widths[-1]
    backbone |= {"head.weight": torch.zeros(5, width), "head.bias": torch.zeros(5)}
    fam, tss, om = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    number = 0
    for branch, tasks in enumerate(swinface.BRANCHES):
        net = f"nets.{branch}"
        for level, conv in enumerate(made.analysis.mlca.convs):
            fam[f"{net}.conv.convs.{level}.weight"] = conv.weight.detach().chunk(11)[branch].clone()
        for ours, theirs in ((0, 1), (2, 3)):
            layer = made.analysis.mlca.gate[ours]
            fam[f"{net}.channel_attention.mlp.{theirs}.weight"] = layer.weight.detach()[branch].clone()
            fam[f"{net}.channel_attention.mlp.{theirs}.bias"] = layer.bias.detach().chunk(11)[branch].clone()
        for name in ("weight", "bias", "running_mean", "running_var"):
            fam[f"{net}.norm.{name}"] = state[f"analysis.mlca.norm.{name}"].chunk(11)[branch].clone()
        fam[f"{net}.norm.num_batches_tracked"] = torch.tensor(7)
        for place in (0, 3):
            layer = made.analysis.subnets[place]
            tss[f"{net}.feature.{place}.weight"] = layer.weight.detach()[branch].clone()
            tss[f"{net}.feature.{place}.bias"] = layer.bias.detach().chunk(11)[branch].clone()
        answer, start = made.analysis.answers[branch], 0
        for task in tasks:
            end = start + {"Age": 1, "Expression": 7}.get(task, 2)
            om[f"output_fcs.{number}.weight"] = answer.weight.detach()[start:end].clone()
            om[f"output_fcs.{number}.bias"] = answer.bias.detach()[start:end].clone()
            number, start = number + 1, end
    assert number == 42
    return {
        "epoch": 3, "global_step": 79_999, "local_step": 2,
        "state_dict_backbone": {f"module.{k}": v for k, v in backbone.items()},
        "state_dict_softmax_fc": {"weight": torch.zeros(4, 4)}, "state_dict_fam": fam, "state_dict_tss": tss,
        "state_dict_om": om, "state_optimizer": {"state": {0: {"step": torch.tensor(1.0)}}},
        "state_lr_scheduler": {"last_epoch": 4},
    }  # fmt: skip


@pytest.mark.parametrize("feature", ["all", "local", "global"])
def test_a_released_state_becomes_the_same_network(feature: str) -> None:
    made = small(feature=feature)
    state = released(made)
    assert swinface.shape_of(state) == {**SMALL, "feature": feature}
    other = swinface.swinface(**swinface.shape_of(state)).eval()
    other.load_state_dict(swinface.convert_official(state), strict=True)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for name, value in made(x).items():
            torch.testing.assert_close(other(x)[name], value)


def test_a_checkpoint_of_another_kind_is_refused() -> None:
    state = released(small())
    part: dict[str, Any]
    for name, key, value, message in (
        ("state_dict_backbone", "module.extra", torch.zeros(1), r"1 unknown \(backbone.extra\)"),
        ("state_dict_backbone", "module.norm.bias", None, r"1 missing \(backbone.norm.bias\)"),
        ("state_dict_backbone", "module.patch_embed.proj.weight", None, "missing .*patch_embed.proj.weight"),
        ("state_dict_fam", "nets.4.conv.convs.1.weight", None, r"missing \(fam.nets.4.conv.convs.1.weight\)"),
        ("state_dict_tss", "nets.3.feature.0.bias", torch.zeros(3), "another shape"),
        ("state_dict_tss", "nets.3.feature.0.weight", torch.zeros(3, 3), "branches of several shapes"),
        ("state_dict_om", "output_fcs.42.weight", torch.zeros(2, 2), r"unknown \(om.output_fcs.42.weight\)"),
        ("state_dict_om", "output_fcs.7.bias", None, r"missing \(om.output_fcs.7.bias\)"),
        ("state_dict_backbone", "module.layers.0.blocks.1.attn_mask", torch.ones(16, 16, 16), "of other values"),
    ):
        part = {k: v for k, v in state[name].items() if k != key}
        part |= {} if value is None else {key: value}
        with pytest.raises(CheckpointError, match=message):
            swinface.convert_official({**state, name: part})
    with pytest.raises(CheckpointError, match=r"unknown \(state_dict_other\)"):
        swinface.convert_official({**state, "state_dict_other": {}})
    with pytest.raises(CheckpointError, match="tensors by name"):
        swinface.convert_official({"patch_embed.proj.weight": 3})


def test_one_checkpoint_serves_both_tasks(tmp_path: Path) -> None:
    from mien.weights import decoder, load

    made = small()
    file = tmp_path / "checkpoint_step_79999_gpu_0.pt"
    torch.save(released(made), file)
    x = torch.randn(2, 3, 32, 32)
    reading = swinface.import_official(file, tmp_path / "reading.safetensors", name="one")
    embedding = swinface.import_official(file, tmp_path / "embedding.safetensors", name="two", task="embedding")
    assert (reading.task, embedding.task) == ("reading", "embedding")
    assert reading.input.template == embedding.input.template == "arcface112"
    assert reading.input.size == 32
    with torch.no_grad():
        want = made(x)
        told = load(reading)(x)
        torch.testing.assert_close(load(embedding)(x), want["recognition"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(told[:, :1], want["age"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(told[:, 1:8], want["expression"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(told[:, 8:].unflatten(1, (40, 2)), want["attributes"], atol=1e-5, rtol=1e-4)
    decode = decoder(reading)
    assert decode is not None
    columns = decode(told.numpy(), reading.temperatures)
    assert {name: value.shape for name, value in columns.items()} == {
        "age": (2,), "expressions": (2, 8), "appearance": (2, 20),
    }  # fmt: skip
    bare = tmp_path / "backbone.pt"
    torch.save(released(made)["state_dict_backbone"], bare)
    assert swinface.import_official(bare, tmp_path / "bare.safetensors").task == "embedding"
    with pytest.raises(CheckpointError, match="backbone without analysis"):
        swinface.import_official(bare, tmp_path / "bare.safetensors", task="reading")
    with pytest.raises(OptionError, match="written as safetensors"):
        swinface.import_official(file, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        swinface.declaration(bare)


def test_answers_become_columns_by_name() -> None:
    raw = np.full((1, 88), 0, np.float32)
    raw[0, 0] = 130
    raw[0, 1 + swinface.EXPRESSIONS.index("fear")] = 20
    for name in ("No_Beard", "Eyeglasses", "Mouth_Slightly_Open"):
        raw[0, 8 + 2 * swinface.ATTRIBUTES.index(name) + 1] = 20
    columns = swinface.decode(raw, {})
    assert columns["age"].tolist() == [120]
    assert EXPRESSIONS[int(columns["expressions"][0].argmax())] == "fear"
    assert columns["expressions"].sum() == pytest.approx(1)
    assert columns["expressions"][0, EXPRESSIONS.index("contempt")] == 0
    told = dict(zip(APPEARANCE, columns["appearance"][0].tolist(), strict=True))
    assert told["eyeglasses"] > 0.99
    assert told["mouth_open"] > 0.99
    assert told["beard"] < 0.01
    assert told["bald"] == pytest.approx(0.5)
    cooler = swinface.decode(raw, {"appearance": 10.0})
    assert 0.8 < cooler["appearance"][0, APPEARANCE.index("eyeglasses")] < 0.95


def test_the_verbs_read_and_embed_with_an_imported_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: Any
) -> None:
    import mien

    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    file = tmp_path / "checkpoint.pt"
    torch.save(released(small()), file)
    from mien.verbs.weights import import_weights

    import_weights("swinface", file, name="my-reader", task="reading")
    import_weights("swinface", file, name="my-embedder", task="embedding")
    photo = fakes.picture((30, 40, 90, 1), (180, 60, 110, 2))
    faces = mien.analyze(photo, reader="my-reader", device="cpu", **{**fakes.analyze, "read": True})
    assert len(faces) == 2
    assert faces.appearance.shape == (2, 20)
    assert np.isfinite(faces.age).all()
    assert faces.expressions.sum(1) == pytest.approx(np.ones(2), abs=1e-5)
    found = mien.embed(photo, weights="my-embedder", device="cpu", **fakes.align)
    assert found.embeddings.shape == (2, SMALL["dim"])


# --- Golden tensors --------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_the_network_answers_as_the_released_code_does(golden: Any) -> None:
    state, inputs, outputs, facts = golden("swinface-full")
    made = swinface.swinface(**swinface.shape_of(state)).eval()
    made.load_state_dict(swinface.convert_official(state), strict=True)
    order = [GOLDEN_NAMES.get(name, name.replace(" ", "_")) for name in facts["attribute_order"]]
    assert order == list(swinface.ATTRIBUTES)
    with torch.no_grad():
        levels = made.backbone.levels(inputs["image"])
        maps = made.backbone.joined(levels)
        mlca = made.analysis.mlca(maps)
        told = made.analysis(maps)
        seen_there = {
            "local_features": maps[:, :1344], "global_features": maps[:, 1344:], "mlca": mlca.transpose(0, 1),
            "subnets": made.analysis.subnets(mlca).transpose(0, 1), "age": told[:, :1], "expression": told[:, 1:8],
            "attributes": told[:, 8:].unflatten(1, (40, 2)), "recognition": made.backbone.embedding(levels[-1]),
        }  # fmt: skip
    assert seen_there.keys() == outputs.keys()
    for key, want in outputs.items():
        assert float((seen_there[key] - want).abs().max()) <= 1e-5 * float(want.abs().max()), key


@pytest.mark.data
def test_the_losses_are_those_of_the_released_code(golden: Any) -> None:
    _, inputs, outputs, _ = golden("swinface-age-loss")
    for step in (0, 8000, 40_000, 80_000):
        age = inputs["age"].clone().requires_grad_()
        loss = swinface.age_loss(age, inputs["age_true"], step / 80_000)
        torch.testing.assert_close(loss.detach(), outputs[f"loss_step_{step}"], rtol=1e-5, atol=1e-6)
        (slope,) = torch.autograd.grad(loss, age)
        torch.testing.assert_close(slope, outputs[f"grad_age_step_{step}"], rtol=1e-5, atol=1e-6)
    _, inputs, outputs, _ = golden("swinface-recognition-loss")
    layer = PartialFC(64, classes=50, margin=cosface(0.4), scale=64.0)
    layer.weight.data.copy_(inputs["weight"])
    z = inputs["embeddings"].clone().requires_grad_()
    loss = layer(z, inputs["labels"])
    # The released code reports no more than -log(1e-30) for a sample; its gradient knows nothing of that.
    cosines = F.normalize(z) @ F.normalize(layer.weight).T - 0.4 * F.one_hot(inputs["labels"], 50)
    each = F.cross_entropy(64 * cosines, inputs["labels"], reduction="none").detach()
    torch.testing.assert_close(loss.detach(), each.mean(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(each.clamp_max(-math.log(1e-30)).mean(), outputs["loss"], rtol=1e-5, atol=1e-5)
    slopes = torch.autograd.grad(loss, (z, layer.weight))
    for got, name in zip(slopes, ("grad_embeddings", "grad_weight"), strict=True):
        assert float((got - outputs[name]).abs().max()) <= 1e-5 * float(outputs[name].abs().max()), name
