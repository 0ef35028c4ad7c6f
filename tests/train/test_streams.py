"""Streams of sets: labels by name, lists of mixtures, batches that are the same however many processes share them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mien.data.formats import read
from mien.errors import OptionError, TableError
from mien.nn.streams import ATTRIBUTES, EXPRESSIONS
from mien.train import checkpoint
from mien.train.draws import StepSampler
from mien.train.loop import _optimizer, fit
from mien.train.recipes.streams import StreamsRecipe, known
from mien.train.streams import (
    Augment,
    Labelled,
    StreamDraws,
    Streams,
    expression_of,
    labelled,
    rendered,
    seen,
    years,
)


def made(count: int, *, shade: int = 0, size: int = 16) -> Labelled:
    """Pictures of one grey each, which tells the set; all labels are known."""
    rng = np.random.default_rng(shade)
    return Labelled(
        np.full((count, size, size, 3), shade, np.uint8), np.arange(count) // 2,
        rng.uniform(10, 60, count).astype("f4"), rng.integers(0, 2, (count, 40)).astype("f4"),
        rng.integers(0, 7, count), [f"{shade}/{k}" for k in range(count)],
    )  # fmt: skip


# --- Labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "want"),
    [(31.5, 31.5), ("31", 31), ("25-32", 28.5), ("(25, 32)", 28.5), ("0-2", 1), ("more than 70", 70), ("70+", 70),
     (-3, None), ("-3", None), (101, None), ("", None), ("nan", None), (float("nan"), None)],
)  # fmt: skip
def test_ages_are_years_or_unknown(value: object, want: float | None) -> None:
    found = years(value)
    assert np.isnan(found) if want is None else found == pytest.approx(want)


@pytest.mark.parametrize(
    ("value", "want"),
    [("Happy", "happiness"), ("neutral", "neutral"), ("1", "surprise"), (7, "neutral"), ("contempt", None), ("0", None),
     ("8", None)],
)  # fmt: skip
def test_expressions_are_words_or_numbers_of_rafdb(value: object, want: str | None) -> None:
    assert expression_of(value) == (-1 if want is None else EXPRESSIONS.index(want))


def test_tables_are_read_by_the_names_of_their_columns(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")
    (tmp_path / "list.csv").write_text(
        "file,Age,gender,emotion,Young,Bald\na.png,23,F,sad,1,-1\nb.png,25-32,male,contempt,0,1\nc.png,300,?,4,1,-1\n"
    )
    part = labelled(read(tmp_path / "list.csv"))
    assert part.age[:2].tolist() == [23, 28.5]
    assert np.isnan(part.age[2])
    assert part.expression.tolist() == [EXPRESSIONS.index("sadness"), -1, EXPRESSIONS.index("happiness")]
    column = {name: part.attributes[:, ATTRIBUTES.index(name)] for name in ("Male", "Young", "Bald", "Bangs")}
    assert column["Male"][:2].tolist() == [0, 1]
    assert np.isnan(column["Male"][2])
    assert column["Young"].tolist() == [1, 0, 1]
    assert column["Bald"].tolist() == [0, 1, 0]
    assert np.isnan(column["Bangs"]).all()
    assert part.person.tolist() == [-1, -1, -1]
    assert known(part, "age").tolist() == [True, True, False]
    assert known(part, "expression").tolist() == [True, False, True]


def test_celeba_s_columns_are_mapped_by_name_and_its_pictures_cut_by_points(tmp_path: Path) -> None:
    titles = sorted(ATTRIBUTES)
    (tmp_path / "img_align_celeba").mkdir()
    Image.new("RGB", (178, 218), (9, 90, 200)).save(tmp_path / "img_align_celeba" / "000001.jpg")
    values = ["1" if name in ("Smiling", "Male") else "-1" for name in titles]
    (tmp_path / "list_attr_celeba.txt").write_text(f"1\n{' '.join(titles)}\n000001.jpg {' '.join(values)}\n")
    points = "69 111 108 111 88 134 73 153 105 153"
    titles_of = (
        "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
    )
    (tmp_path / "list_landmarks_align_celeba.txt").write_text(f"1\n{titles_of}\n000001.jpg {points}\n")
    part = labelled(read(tmp_path))
    assert {name for name, value in zip(ATTRIBUTES, part.attributes[0], strict=True) if value == 1} == {
        "Smiling",
        "Male",
    }
    assert np.isfinite(part.attributes).all()
    assert part.picture(0, 32).shape == (32, 32, 3)


def test_folders_of_expressions_and_of_people_are_told_apart(tmp_path: Path) -> None:
    for folder in ("happy", "angry"):
        (tmp_path / "shown" / folder).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "shown" / folder / "a.png")
    for folder in ("1", "12"):
        (tmp_path / "people" / folder).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "people" / folder / "a.png")
    assert labelled(read(tmp_path / "shown")).expression.tolist() == [EXPRESSIONS.index("anger"), 3]
    assert labelled(read(tmp_path / "people")).expression.tolist() == [-1, -1]


def test_heads_have_all_labels_and_people_of_their_own() -> None:
    part = rendered(6, seed=3, size=32, per_identity=2)
    assert part.pictures.shape == (6, 32, 32, 3)  # type: ignore[union-attr]
    assert part.person.tolist() == [0, 0, 1, 1, 2, 2]
    assert ((part.age >= 20) & (part.age <= 80)).all()
    unknown = {name for name, value in zip(ATTRIBUTES, part.attributes[0], strict=True) if np.isnan(value)}
    assert unknown == {"Attractive", "Blurry", "Oval_Face", "Wearing_Necktie"}
    later = rendered(2, seed=3, size=32, per_identity=2, first=4)
    assert later.person.tolist() == [2, 2]
    assert np.array_equal(later.pictures, part.pictures[4:])  # type: ignore[index]


# --- Draws -----------------------------------------------------------------------------------------------------------


def four() -> Streams:
    return Streams(
        {"people": [made(20, shade=1)], "age": [made(5, shade=2), made(30, shade=3)], "attributes": [made(8, shade=4)],
         "expression": [made(12, shade=5)]}, size=16,
    )  # fmt: skip


def test_every_batch_has_as_many_rows_of_each_stream_and_mixtures_have_their_shares() -> None:
    draws = StreamDraws(four(), batch=8, seed=0, shares={"age": (0.25, 0.75)})
    shades = np.array([
        [round(float(draws[step * 8 + place]["image"].mean()) * 127.5 + 127.5) for place in range(8)]
        for step in range(10)
    ])  # fmt: skip
    assert (shades[:, :2] == 1).all()
    assert (shades[:, 4:6] == 4).all()
    assert (shades[:, 6:] == 5).all()
    # Ten steps are one list of the people's twenty pictures: each of them once; a quarter of the ages is of one set.
    assert np.bincount(shades[:, 2:4].ravel()).tolist() == [0, 0, 5, 15]
    people = [draws.index(step * 8 + place) for step in range(10) for place in (0, 1)]
    assert sorted(people) == list(range(20))
    attributes = [draws.index(step * 8 + place) for step in range(10) for place in (4, 5)]
    counts = np.bincount(np.array(attributes) - 55, minlength=8)
    assert set(counts.tolist()) == {2, 3}  # whole passes, and a part of one
    assert [draws.index(80), draws.index(81)] != people[:2] or draws.listed("people", 1).tolist() != people


def test_two_processes_see_the_batch_of_one_by_equal_shares() -> None:
    draws = StreamDraws(four(), batch=16, seed=1)
    whole = [draws.index(p) for p in next(iter(StepSampler(1, 16)))]
    shares = [[draws.index(p) for p in next(iter(StepSampler(1, 16, rank=rank, world=2)))] for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(whole)
    ends = draws.source.ends  # type: ignore[attr-defined]
    for share in shares:
        parts = [int(np.searchsorted(ends, row, side="right")) for row in share]
        assert [{0: 0, 1: 1, 2: 1, 3: 2, 4: 3}[part] for part in parts] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_impossible_batches_and_shares_are_refused() -> None:
    with pytest.raises(OptionError, match="multiple of 4"):
        StreamDraws(four(), batch=6, seed=0)
    with pytest.raises(OptionError, match="shares of age"):
        StreamDraws(four(), batch=8, seed=0, shares={"age": (0.5, 0.6)})
    with pytest.raises(TableError, match="no stream at all"):
        Streams({}, size=16)
    with pytest.raises(TableError, match="'age'"):
        Streams({"age": [made(2).take(np.arange(0))]}, size=16)


def test_pictures_are_changed_by_the_seed_alone_and_the_global_generators_stay() -> None:
    pytest.importorskip("timm", reason="the extra backbones is not installed")
    picture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    change = Augment(24, "randaugment", erase=1.0)
    random.seed(5)
    before = random.getstate()
    one, two = (change(picture, np.random.default_rng(7)) for _ in range(2))
    assert random.getstate() == before
    assert np.array_equal(one, two)
    assert one.shape == (3, 24, 24)
    assert not np.array_equal(one, change(picture, np.random.default_rng(8)))
    plain = {Augment(24, "flip")(picture, np.random.default_rng(k)).tobytes() for k in range(12)}
    assert plain == {seen(picture).tobytes(), seen(np.ascontiguousarray(picture[:, ::-1])).tobytes()}


# --- The recipe ------------------------------------------------------------------------------------------------------

NARROW = ("size=32", "patch=2", "embed_dim=16", "depths=(1,1,1,1)", "heads=(1,1,1,1)", "window=4")
FEW: dict[str, Any] = {
    "steps": 2, "batch_size": 8, "workers": 0, "threads": 1, "tensorboard": "no", "device": "cpu", "heads": 12,
    "checked": 4, "size": 32, "dim": 32, "sample": 1.0, "half": False, "warmup": 0, "start_age": None,
}  # fmt: skip


def test_the_backbone_learns_at_a_tenth_of_the_rate_and_is_clipped_alone(tmp_path: Path) -> None:
    recipe = StreamsRecipe.make(
        preset="small", out=tmp_path, **{**FEW, "arguments": (*NARROW, "hidden=8"), "backbone_pace": 0.1, "lr": 1e-3}
    )
    module = recipe.build()
    groups = _optimizer(recipe, module).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in module.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1e-4 if name.startswith("backbone.") else 1e-3)
    assert recipe.clipped(module) is module.get_submodule("backbone")
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert not any(id(p) in decayed for name, p in module.named_parameters() if name.endswith("bias"))


def test_recognition_first_then_all_tasks_then_a_reader_for_the_verbs(tmp_path: Path) -> None:
    from mien.papers import swinface

    first = StreamsRecipe.make(
        out=tmp_path / "first", people="heads", network="mien.papers.swinface:swin_t", arguments=NARROW, **FEW
    )
    backbone = fit(first).weights
    second = StreamsRecipe.make(
        preset="small", out=tmp_path / "second", base=str(backbone),
        **{**FEW, "arguments": (*NARROW, "hidden=8"), "backbone_pace": 0.0, "ema": 0.0},
    )  # fmt: skip
    result = fit(second)
    assert set(result.figures) >= {"age_mae", "attributes", "expression"}
    network = second.deploy(second.build())
    checkpoint.fill(network, result.weights)
    held = first.deploy(first.build())
    checkpoint.fill(held, backbone)
    # At a pace of nothing the backbone's weights are those it came with; running statistics move on.
    for (name, one), two in zip(held.named_parameters(), network.get_submodule("backbone").parameters(), strict=True):
        torch.testing.assert_close(two, one, msg=name)
    for task, width in (("reading", 88), ("embedding", 32)):
        weights = swinface.import_official(result.weights, tmp_path / f"{task}.safetensors", name="own", task=task)  # type: ignore[arg-type]
        from mien.weights import load

        with torch.no_grad():
            assert load(weights)(torch.zeros(1, 3, 32, 32)).shape == (1, width)
        assert "mien train streams" in weights.source
    assert swinface.import_official(backbone, tmp_path / "bare.safetensors").task == "embedding"


def test_a_stream_alone_trains_its_tasks_and_leaves_the_rest(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = StreamsRecipe.make(
        out=tmp_path, ages=("heads",), arguments=(*NARROW, "hidden=8", "dropout=0"), **{**FEW, "batch_size": 4}
    )
    assert recipe.class_layer() is None
    module = recipe.build()
    draws = recipe.draws(recipe.source())
    batch = {k: torch.from_numpy(np.stack([draws[p][k] for p in range(4)])) for k in ("image", "label", "age",
             "attributes", "expression")}  # fmt: skip
    loss, told = recipe.loss(module, batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert set(told) == {"age", "attributes"}
    touched = {
        number
        for number, layer in enumerate(module.get_submodule("analysis.answers").children())
        if isinstance(layer, nn.Linear) and layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0
    }
    assert touched == {0, 1}  # gender; age
    folder = tmp_path / "nobody"
    folder.mkdir()
    Image.new("RGB", (20, 20)).save(folder / "a.png")
    nobody = StreamsRecipe.make(out=tmp_path, ages=(str(folder),), **FEW)
    with pytest.raises(TableError, match="stream of age"):
        nobody.source()
