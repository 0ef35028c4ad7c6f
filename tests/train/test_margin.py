"""The recipe that trains by a classifier over people: heads, wrong labels, schedule, resumption, presets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from mien.errors import OptionError, ValueRangeError
from mien.nn.inputs import to_input
from mien.nn.standardise import STANDARDS
from mien.train import checkpoint
from mien.train.batches import PeopleDraws
from mien.train.classes import MagFace, PartialFC, SFaceLayer
from mien.train.loop import fit
from mien.train.people import built, compared, wrong_labels
from mien.train.recipes import recipe_class
from mien.train.recipes.margin import MarginRecipe
from mien.train.recipes.triplet import TripletRecipe

SIDE = 40
PEOPLE, PICTURES = 8, 5


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a person, with a colour of their own, and noise."""
    root = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    for person in range(PEOPLE):
        colour = rng.integers(40, 216, (2, 2, 3))
        (root / f"person{person}").mkdir()
        for image in range(PICTURES):
            picture = cv2.resize(colour.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
            noisy = np.clip(picture + rng.normal(0, 25, picture.shape), 0, 255).astype(np.uint8)
            assert cv2.imwrite(str(root / f"person{person}" / f"{image}.png"), noisy)
    return root


def recipe(people: Path, out: Path, **options: Any) -> MarginRecipe:
    # At widths that are no multiple of 8 channels (0.1), torch 2.14 corrupts memory in the backward of convolutions on
    # some processors.
    numbers = {
        "network": "mien.nn.iresnet:ir_50", "arguments": ("size=32", "width=0.125", "depths=(1,1,1,1)", "dropout=0"),
        "dim": 8, "size": 32, "scaled": 36, "batch_size": 10, "steps": 4, "lr": 0.05, "warmup": 0, "ema": 0.0,
        "scale": 16.0, "workers": 0, "threads": 1, "tensorboard": "no", "device": "cpu", "half": False, "log_every": 1,
    }  # fmt: skip
    return MarginRecipe.make(data=str(people), out=str(out), **{**numbers, **options})


def logged(out: Path, name: str) -> list[float]:
    rows = [line.split(",") for line in (out / "log.csv").read_text().splitlines()]
    return [float(value) for _, key, value in rows if key == name]


# --- Heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("softmax", {"own_cosine"}),
        ("cosface", {"own_cosine"}),
        ("arcface", {"own_cosine"}),
        ("magface", {"own_cosine", "norm", "penalty"}),
        ("sface", {"own_cosine", "intra", "inter"}),
    ],
)
def test_every_head_trains(people: Path, tmp_path: Path, head: str, told: set[str]) -> None:
    made = recipe(people, tmp_path, head=head)
    result = fit(made)
    for name in told:
        assert len(logged(tmp_path, name)) == 4
    state = checkpoint.load(tmp_path / "classes-4-0.ckpt")
    assert state["classes"] == PEOPLE
    network = built(made.network, made.arguments, made.dim)
    network.load_state_dict(load_file(result.weights), strict=False)  # the head is not kept


def test_the_heads_have_the_numbers_of_the_recipe(people: Path, tmp_path: Path) -> None:
    layer = recipe(people, tmp_path, head="sface", a=0.9, b=1.3, k=40.0).class_layer()
    assert isinstance(layer, SFaceLayer)
    assert (layer.a, layer.b, layer.k, layer.scale) == (0.9, 1.3, 40.0, 16.0)
    assert layer.weight.std().item() == pytest.approx(2 * math.sqrt(2 / PEOPLE), rel=0.3)
    cosine = torch.tensor([0.3])
    for head, margin, want in (
        ("softmax", None, 0.3),
        ("cosface", None, 0.3 - 0.35),
        ("cosface", 0.1, 0.2),
        ("arcface", None, math.cos(math.acos(0.3) + 0.5)),
        ("arcface", 0.2, math.cos(math.acos(0.3) + 0.2)),
    ):
        layer = recipe(people, tmp_path, head=head, margin=margin, sample=0.5).class_layer()
        assert isinstance(layer, PartialFC)
        assert layer.margin(cosine).item() == pytest.approx(want, abs=1e-6)  # type: ignore[call-arg]
        assert layer.sample == 0.5
    layer = recipe(people, tmp_path, head="magface", magface="0.4,0.9,5,50,20", spread=0.3).class_layer()
    assert isinstance(layer, PartialFC)
    assert layer.margin == MagFace(low=5, high=50, low_margin=0.4, high_margin=0.9, weight=20)
    assert layer.spread == 0.3


def test_the_loss_is_of_the_pictures_as_the_network_sees_them(people: Path, tmp_path: Path) -> None:
    image = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6)
    for standardise in ("fixed", "image", "imagenet", "tenfold"):
        made = recipe(people, tmp_path, standardise=standardise, head="sface")
        torch.manual_seed(0)
        module = made.build().eval()
        made.__dict__["_classes"] = made.class_layer()
        loss, _ = made.loss(module, {"image": image, "label": labels}, 0)
        torch.testing.assert_close(loss, made.class_layer()(module(STANDARDS[standardise](image)), labels))
    raw = image.permute(0, 3, 1, 2).float()
    torch.testing.assert_close(STANDARDS["tenfold"](image), 10 * to_input(image))
    want = (raw / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    torch.testing.assert_close(STANDARDS["imagenet"](image), want)


def test_negative_pairs_join_the_denominator(people: Path, tmp_path: Path) -> None:
    plain, more = (
        recipe(people, tmp_path, head="arcface", negatives=name, whisker=1.0).class_layer() for name in ("none", "unpg")
    )
    z = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 4, 4])
    assert more(z, labels) > plain(z, labels)


# --- Data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 0.4, 1.0])
def test_so_many_labels_are_wrong_and_any_other_person_may_be_meant(share: float) -> None:
    labels = np.arange(3000) % 10
    noisy = wrong_labels(labels, 10, share, seed=3)
    assert (noisy != labels).sum() == round(share * 3000)
    assert set(noisy) <= set(range(10))
    if share == 1.0:
        counts = np.zeros((10, 10))
        np.add.at(counts, (labels, noisy), 1)
        assert counts[~np.eye(10, dtype=bool)].min() > 10  # each is mistaken for each
    np.testing.assert_array_equal(noisy, wrong_labels(labels, 10, share, seed=3))
    assert share == 0 or (noisy != wrong_labels(labels, 10, share, seed=4)).any()


def test_labels_that_cannot_be_made_wrong() -> None:
    with pytest.raises(ValueRangeError, match="made wrong"):
        wrong_labels(np.zeros(3, np.int64), 1, 0.5, seed=0)
    with pytest.raises(ValueRangeError, match="made wrong"):
        wrong_labels(np.zeros(3, np.int64), 4, 1.5, seed=0)


def test_wrong_labels_are_in_training_only(people: Path, tmp_path: Path) -> None:
    made = recipe(people, tmp_path, noise=0.4, held=0.375)
    rows, labels, count = made._targets
    right, _ = made._labels
    assert (count, len(rows)) == (5, 25)
    assert (labels != right).sum() == 10
    source = made.source()
    drawn = [source.sample(row, np.random.default_rng(0))["label"] for row in range(len(source))]
    assert drawn == labels.tolist()
    assert len(np.unique(made.held_out()[1])) == 3


def test_pictures_of_nobody_known_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["file,identity"]
    for index, who in enumerate((4, 4, -1, 9, 9, -1, 4, 9)):
        assert cv2.imwrite(str(tmp_path / f"{index}.png"), rng.integers(0, 256, (32, 32, 3), np.uint8))
        rows.append(f"{index}.png,{who}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    made = recipe(tmp_path / "list.csv", tmp_path / "run")
    assert len(made.source()) == 6
    assert made._targets[1].tolist() == [0, 0, 1, 1, 0, 1]
    (tmp_path / "one.csv").write_text("file,identity\n0.png,4\n1.png,4\n")
    with pytest.raises(OptionError, match="two people"):
        recipe(tmp_path / "one.csv", tmp_path / "run").source()


def test_batches_of_some_people_with_some_pictures_each(people: Path, tmp_path: Path) -> None:
    made = recipe(people, tmp_path, images=2)
    draws = made.draws(made.source())
    assert isinstance(draws, PeopleDraws)
    labels = [draws[position]["label"] for position in range(10)]
    assert [labels.count(label) for label in set(labels)] == [2] * 5


# --- Training --------------------------------------------------------------------------------------------------------


def test_the_rate_falls_in_steps_after_a_warm_up(people: Path, tmp_path: Path) -> None:
    made = recipe(people, tmp_path, schedule="steps", drops=(0.5, 0.75), steps=40, warmup=4)
    paces = [made.pace(step) for step in range(40)]
    assert paces[:4] == [0.25, 0.5, 0.75, 1.0]
    assert paces[4:20] == [1.0] * 16
    np.testing.assert_allclose(paces[20:30], 0.1)
    np.testing.assert_allclose(paces[30:], 0.01)
    assert recipe(people, tmp_path, steps=40, final_lr=0.0).pace(20) == pytest.approx(0.5)


def test_the_first_step_is_that_of_sgd(people: Path, tmp_path: Path) -> None:
    """Momentum is not Nesterov's, normalisations are not decayed, and rows are."""
    numbers = {"steps": 2, "weight_decay": 0.1, "head": "sface", "schedule": "constant", "batch_size": 8}
    made = recipe(people, tmp_path, **numbers)
    torch.manual_seed(made.seed)
    module = made.build().train()
    layer = made.class_layer()
    made.__dict__["_classes"] = layer
    decayed = [p for p in module.parameters() if p.ndim > 1]
    rest = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    plain = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    rows = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    draws = made.draws(made.source())
    for step in range(2):
        samples = [draws[position] for position in range(8 * step, 8 * step + 8)]
        batch = {
            "image": torch.from_numpy(np.stack([s["image"] for s in samples])),
            "label": torch.from_numpy(np.stack([s["label"] for s in samples])),
        }
        loss, _ = made.loss(module, batch, step)
        plain.zero_grad()
        rows.zero_grad()
        loss.backward()
        plain.step()
        rows.step()
    fit(recipe(people, tmp_path, **numbers))
    after = checkpoint.load(tmp_path / "last.ckpt")["module"]
    for name, value in module.named_parameters():
        torch.testing.assert_close(after[name], value.detach(), atol=1e-5, rtol=1e-4)
    state = checkpoint.load(tmp_path / "classes-2-0.ckpt")
    torch.testing.assert_close(state["weight"], layer.weight.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{"head": "sface", "noise": 0.2}, {"head": "arcface", "sample": 0.5}])
def test_a_run_cut_in_two_ends_bit_equal_to_an_unbroken_one(
    people: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole, cut = (recipe(people, tmp_path / name, **options) for name in "ab")
    fit(whole)
    fit(cut, stop_at=2)
    fit(cut)
    first, second = (checkpoint.load(tmp_path / name / "last.ckpt") for name in "ab")
    assert all(torch.equal(value, second["module"][key]) for key, value in first["module"].items())
    rows = [checkpoint.load(tmp_path / name / "classes-4-0.ckpt")["weight"] for name in "ab"]
    assert torch.equal(*rows)


def test_it_learns_to_tell_new_people_apart(people: Path, tmp_path: Path) -> None:
    made = recipe(people, tmp_path, steps=40, held=0.375, mirror=True, head="cosface", margin=0.2, batch_size=16)
    result = fit(made)
    assert result.figures["auc"] > 0.9
    own = logged(tmp_path, "own_cosine")
    assert own[-1] > own[0] + 0.2


def test_held_out_pictures_are_compared_with_their_mirror_images(people: Path, tmp_path: Path) -> None:
    made = recipe(people, tmp_path, mirror=True, held=0.375)
    torch.manual_seed(0)
    network = made.build().eval()
    crops, who = made.held_out()
    x = to_input(torch.from_numpy(crops))
    with torch.no_grad():
        z = F.normalize(network(x) + network(x.flip(3)), dim=1).numpy()
        assert made.evaluate(network)["auc"] == pytest.approx(compared(z, z, who)["auc"], abs=1e-6)


# --- Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "sphere"}, "option head has the wrong type"),
        ({"negatives": "all"}, "option negatives has the wrong type"),
        ({"standardise": "zero"}, "wrong type"),
        ({"noise": 1.1}, "noise"),
        ({"images": 3}, "divisor"),
        ({"magface": (1.0, 2.0)}, "magface"),
        ({"schedule": "steps"}, "drops"),
        ({"drops": (0.5,)}, "drops"),
        ({"schedule": "steps", "drops": (0.8, 0.5)}, "rising"),
        ({"head": "softmax", "margin": 0.1}, "margin"),
        ({"head": "sface", "sample": 0.5}, "sample"),
        ({"head": "sface", "negatives": "unpg"}, "negatives"),
        ({"spread": -1.0}, "spread"),
        ({"held": 1.0}, "out of its range"),
        ({"scaled": 20}, "smaller than"),
    ],
)
def test_wrong_options_teach(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        recipe(tmp_path, tmp_path, **options)


def test_other_recipes_have_no_such_schedule(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="schedule"):
        TripletRecipe.make(data="unused", out=str(tmp_path), schedule="steps")


def test_the_paper_s_preset_has_the_released_numbers(tmp_path: Path) -> None:
    paper, vgg, ms1m, small = (
        MarginRecipe.make(preset=name, data="unused", out=str(tmp_path))
        for name in ("paper", "sface_vggface2", "sface_ms1mv2", "small")
    )
    assert (paper.head, paper.a, paper.b, paper.k, paper.scale) == ("sface", 0.87, 1.20, 80.0, 64.0)
    assert (paper.batch_size, paper.lr, paper.momentum, paper.weight_decay) == (256, 0.1, 0.9, 5e-4)
    epoch = 490_623 // 256
    assert paper.steps == 125 * epoch
    assert [round(share * paper.steps) // epoch for share in paper.drops] == [50, 70, 80]
    assert (vgg.a, vgg.b, ms1m.a, ms1m.b) == (0.88, 1.25, 0.90, 1.20)
    assert [round(share * ms1m.steps, -3) for share in ms1m.drops] == [100_000, 160_000, 220_000]
    assert ms1m.network.endswith(":ir_101")
    assert small.steps * small.batch_size <= 60_000
    assert isinstance(recipe_class("margin").make(preset="small", data="unused", out="unused").build(), nn.Module)
