"""Batches of people, and the recipe that trains by triplets: what is drawn, computed, resumed, frozen and measured."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from mien.errors import CheckpointError, MienError, OptionError, ShapeError
from mien.nn.inputs import to_input
from mien.nn.standardise import image_standardisation
from mien.nn.triplet import triplet_loss
from mien.train import checkpoint
from mien.train.batches import PeopleDraws
from mien.train.draws import StepSampler
from mien.train.loop import fit
from mien.train.recipes.triplet import Trainee, TripletRecipe, built, compared

SIDE = 40


class Rows:
    """A source whose samples are their own index."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"index": index, "noise": rng.random()}


LABELS = np.array([3, 0, 0, 3, 1, 7, 0, 3, 1, -1, 0, 2, 2, -1, 3, 1, 2])
"""Person 7 is there once; two pictures are of nobody known."""


def drawn(**options: Any) -> PeopleDraws:
    return PeopleDraws(Rows(len(LABELS)), LABELS, **{"people": 2, "images": 3, "seed": 5, **options})


# --- Batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_has_so_many_people_and_so_many_pictures_of_each() -> None:
    draws = drawn(others=2)
    assert (draws.batch_size, draws.known) == (8, 4)
    seen = set()
    for step in range(50):
        rows = draws.batch(step)
        assert len(rows) == 8
        who = LABELS[rows[:6]].reshape(3, 2)  # place k is person k % people
        assert (who == who[0]).all()
        assert len(set(who[0])) == 2
        assert set(who[0]) <= {0, 1, 2, 3}
        assert len(set(rows[:6])) == 6  # no picture twice: all have three
        seen |= set(rows.tolist())
    assert seen == set(range(len(LABELS)))  # others show who is never drawn as a person


def test_every_epoch_shows_everybody_once() -> None:
    draws = drawn()
    for epoch in range(5):
        people = [set(LABELS[draws.batch(2 * epoch + turn)]) for turn in range(2)]
        assert people[0] | people[1] == {0, 1, 2, 3}
    assert {tuple(LABELS[drawn().batch(2 * epoch)[:2]]) for epoch in range(12)} != {tuple(LABELS[drawn().batch(0)[:2]])}


def test_who_is_left_over_waits_for_another_epoch() -> None:
    draws = drawn(people=3)  # of four: one waits
    waited = {({0, 1, 2, 3} - set(LABELS[draws.batch(step)])).pop() for step in range(40)}
    assert waited == {0, 1, 2, 3}


def test_people_with_few_pictures_show_them_again_and_those_with_too_few_are_left_out() -> None:
    rows = drawn(images=5).batch(0)
    for person in set(LABELS[rows]):
        own = rows[LABELS[rows] == person]
        assert len(own) == 5
        assert len(set(own)) == min(5, LABELS.tolist().count(person))
    assert drawn(least=4).known == 2
    assert drawn(least=1).known == 5


def test_what_is_drawn_follows_from_seed_and_position_alone() -> None:
    draws = drawn(others=2)
    forward = [draws[position] for position in range(40)]
    backward = [drawn(others=2)[position] for position in reversed(range(40))][::-1]
    assert forward == backward
    assert [draws[position] for position in (33, 2, 17)] == [forward[position] for position in (33, 2, 17)]
    assert forward != [drawn(others=2, seed=6)[position] for position in range(40)]


def test_processes_get_whole_people() -> None:
    draws = drawn()
    for rank in range(2):
        (places,) = StepSampler(1, draws.batch_size, rank=rank, world=2)
        assert len({int(LABELS[draws.index(place)]) for place in places}) == 1


def test_batches_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(OptionError, match=r"too few people.*4 with at least 2"):
        drawn(people=5)
    with pytest.raises(OptionError, match="needs people"):
        drawn(people=0)
    with pytest.raises(ShapeError, match="labels"):
        PeopleDraws(Rows(3), LABELS, people=1, images=2, seed=0)


# --- The recipe ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a person, eight people with five pictures each: a colour of their own, and noise."""
    root = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    for person in range(8):
        colour = rng.integers(40, 216, (2, 2, 3))
        (root / f"person{person}").mkdir()
        for image in range(5):
            picture = cv2.resize(colour.astype(np.uint8), (SIDE, SIDE + 8), interpolation=cv2.INTER_LINEAR)
            noisy = np.clip(picture + rng.normal(0, 25, picture.shape), 0, 255).astype(np.uint8)
            assert cv2.imwrite(str(root / f"person{person}" / f"{image}.png"), noisy)
    return root


def recipe(people: Path, out: Path, **options: Any) -> TripletRecipe:
    numbers = {
        "arguments": ("width=0.1",), "dim": 8, "size": 32, "scaled": 36, "batch_size": 12, "images": 3, "steps": 4,
        "lr": 3e-3, "warmup": 0, "ema": 0.0, "workers": 0, "threads": 1, "tensorboard": "no", "device": "cpu",
        "half": False, "log_every": 1,
    }  # fmt: skip
    return TripletRecipe.make(data=str(people), out=str(out), **{**numbers, **options})


def logged(out: Path) -> dict[str, list[float]]:
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(r["value"]) for r in rows if r["name"] == name] for name in {r["name"] for r in rows}}


@pytest.mark.parametrize("optimizer", ["adagrad", "adamw"])
def test_a_run_cut_in_two_ends_bit_equal_to_an_unbroken_one(people: Path, tmp_path: Path, optimizer: str) -> None:
    """Also the random choice of negatives goes on as if nothing had been."""
    whole, cut = (recipe(people, tmp_path / name, optimizer=optimizer, others=3, batch_size=15) for name in "ab")
    fit(whole)
    fit(cut, stop_at=2)
    fit(cut)
    first, second = (checkpoint.load(tmp_path / name / "last.ckpt") for name in "ab")
    for key, value in first["module"].items():
        assert torch.equal(value, second["module"][key]), key
    for key, moment in first["optimizer"]["state"].items():
        assert all(torch.equal(value, second["optimizer"]["state"][key][name]) for name, value in moment.items())
    assert logged(tmp_path / "a")["loss"] == logged(tmp_path / "b")["loss"]


def test_the_first_step_of_adagrad_is_that_of_tensorflow(people: Path, tmp_path: Path) -> None:
    numbers = {"optimizer": "adagrad", "lr": 0.1, "steps": 1, "weight_decay": 0.0, "clip": 0.0}
    made = recipe(people, tmp_path, rule="nearest_semi_hard", **numbers)
    torch.manual_seed(made.seed)
    module = made.build()
    draws = made.draws(made.source())
    samples = [draws[position] for position in range(12)]
    batch = {
        "image": torch.from_numpy(np.stack([s["image"] for s in samples])),
        "label": torch.from_numpy(np.stack([s["label"] for s in samples])),
    }
    loss, _ = made.loss(module.train(), batch, 0)
    loss.backward()
    fit(made)
    after = checkpoint.load(tmp_path / "last.ckpt")["module"]
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        g = parameter.grad.double()
        want = parameter.detach().double() - 0.1 * g / (0.1 + g**2).sqrt()
        torch.testing.assert_close(after[name].double(), want, atol=2e-5, rtol=1e-4)


def test_the_loss_is_that_of_the_batch_as_the_network_sees_it(people: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (12, 32, 32, 3), dtype=torch.uint8)
    batch = {"image": image, "label": torch.arange(4).repeat(3)}
    for standardise, seen in (("fixed", to_input), ("image", image_standardisation)):
        made = recipe(people, tmp_path, standardise=standardise, rule="all", margin=0.3, reduction="mean")
        module = made.build().eval()
        loss, parts = made.loss(module, batch, 0)
        z = F.normalize(made.deploy(module)(seen(image)), dim=1)
        want, want_parts = triplet_loss(z, batch["label"], rule="all", margin=0.3, reduction="mean")
        torch.testing.assert_close(loss, want)
        assert parts.keys() == want_parts.keys() == {"active", "distance", "positive", "negative"}


def test_crops_are_cut_at_random_and_mirrored_half_the_time(people: Path, tmp_path: Path) -> None:
    made = recipe(people, tmp_path)
    source = made.source()
    (plain, *_) = source.plain(batch=len(source))  # type: ignore[attr-defined]
    assert plain.shape == (40, 32, 32, 3)
    whole = source._squashed(0)  # type: ignore[attr-defined]
    assert whole.shape == (36, 36, 3)
    np.testing.assert_array_equal(plain[0], whole[2:34, 2:34])
    places = {(y, x, flip): 0 for y in range(5) for x in range(5) for flip in (False, True)}
    for draw in range(200):
        image = source.sample(0, np.random.default_rng(draw))["image"]
        (place,) = [
            (y, x, flip)
            for y, x, flip in places
            if np.array_equal(whole[y : y + 32, x : x + 32][:, :: -1 if flip else 1], image)
        ]
        places[place] += 1
    assert sum(map(bool, places.values())) > 40
    assert 60 < sum(count for place, count in places.items() if place[2]) < 140
    same = [source.sample(3, np.random.default_rng(1))["image"] for _ in range(2)]
    np.testing.assert_array_equal(*same)


def test_it_learns_to_tell_new_people_apart(people: Path, tmp_path: Path) -> None:
    made = recipe(people, tmp_path, steps=80, held=0.375, batch_size=15, ema=0.8)
    result = fit(made)
    # Six new people, after eighty steps on ten: 0.9 on one processor, 0.95 on another, where chance is 0.5.
    assert result.figures["auc"] > 0.7
    log = logged(tmp_path)
    assert log["positive"][-1] < log["negative"][-1]
    assert {"active", "distance"} <= log.keys()
    network = built(made.network, made.arguments, made.dim)
    network.load_state_dict(load_file(result.weights), strict=False)  # what is kept has no layer over people


def test_held_out_people_are_never_drawn(people: Path, tmp_path: Path) -> None:
    made = recipe(people, tmp_path, held=0.375)
    train, held = made._samples
    assert held.people == 3
    assert not {Path(key).parent for key in train.keys} & {Path(key).parent for key in held.keys}
    assert len(made.source()) == 25
    assert set(made._labels[0].tolist()) == set(range(5))


def test_a_softmax_warms_up_and_then_leaves_the_triplets_alone(people: Path, tmp_path: Path) -> None:
    made = recipe(people, tmp_path, warm_steps=2, warm_scale=10.0)
    module = made.build()
    assert isinstance(module, Trainee)
    assert module.people is not None
    assert module.people.shape == (8, 8)
    image = torch.randint(0, 256, (12, 32, 32, 3), dtype=torch.uint8)
    batch = {"image": image, "label": torch.tensor([0, 1, 2, 3] * 2 + [7, 7, 8, 9])}  # 8 and 9 are nobody known
    z, _ = module.eval()(to_input(image))
    cosines = z @ F.normalize(module.people, dim=1).T
    warm, parts = made.loss(module, batch, 1)
    torch.testing.assert_close(warm, F.cross_entropy(10 * cosines[:10], batch["label"][:10]))
    assert "triplet" in parts
    torch.manual_seed(3)
    loss, _ = made.loss(module, batch, 2)
    torch.manual_seed(3)
    want, _ = triplet_loss(z, batch["label"])
    torch.testing.assert_close(loss, want)
    loss.backward()
    assert module.people.grad is not None
    assert not module.people.grad.any()
    result = fit(made)
    assert "people" not in load_file(result.weights)
    losses = logged(tmp_path)["loss"]
    assert min(losses[:2]) > 1.0 > max(losses[2:])  # ln 8 at first, then hinges of 0.2


def test_pictures_of_nobody_known_are_people_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["file,identity"]
    for index, who in enumerate((4, 4, -1, 9, 9, -1, 4, 9)):
        assert cv2.imwrite(str(tmp_path / f"{index}.png"), rng.integers(0, 256, (32, 32, 3), np.uint8))
        rows.append(f"{index}.png,{who}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    made = recipe(tmp_path / "list.csv", tmp_path / "run", batch_size=6, others=2, images=2)
    labels, count = made._labels
    assert count == 2
    assert labels.tolist() == [0, 0, 4, 1, 1, 7, 0, 1]
    draws = made.draws(made.source())
    assert isinstance(draws, PeopleDraws)
    assert draws.known == 2


def test_figures_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 12
    new, old = (rng.normal(size=(12, 6))[labels] + rng.normal(0, 0.5, (60, 6)) for _ in range(2))
    new, old = (np.asarray(z / np.linalg.norm(z, axis=1, keepdims=True), np.float32) for z in (new, old))
    for query, gallery in ((new, new), (new, old)):
        found = compared(query, gallery, labels)
        pairs = [(i, j) for i in range(60) for j in range(60) if (i < j if query is gallery else i != j)]
        scores = np.array([query[i] @ gallery[j] for i, j in pairs])
        same = np.array([labels[i] == labels[j] for i, j in pairs])
        wins = scores[same][:, None] > scores[~same][None]
        assert found["auc"] == pytest.approx(wins.mean(), abs=1e-3)
        allowed = int((~same).sum() * 1e-3)
        assert found["val"] == pytest.approx((scores[same] > np.sort(scores[~same])[::-1][allowed]).mean())
    assert set(compared(new[:12], new[:12], labels[:12])) == set()  # nobody twice
    assert set(compared(new[:24], new[:24], labels[:24])) == {"auc"}  # too few pairs for FAR 1e-3


# --- Harmonic training -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an old network, of half the size."""
    out = tmp_path_factory.mktemp("old")
    return Path(fit(recipe(people, out, arguments=("width=0.05",), steps=3)).weights)


def harmonic(people: Path, out: Path, old: Path, **options: Any) -> TripletRecipe:
    numbers = {"old_network": "mien.papers.facenet:nn4_small2", "old_arguments": "width=0.05", "old": str(old)}
    return recipe(people, out, **{**numbers, **options})


def test_step_two_trains_a_new_embedding_layer_alone(people: Path, tmp_path: Path, old: Path) -> None:
    first = fit(recipe(people, tmp_path / "a", steps=2)).weights
    fit(harmonic(people, tmp_path / "b", old, harmonic="last", init=str(first), steps=3))
    before = load_file(first)
    after = checkpoint.load(tmp_path / "b" / "last.ckpt")["module"]
    changed = {
        key for key, value in before.items() if not torch.equal(value, after[f"network.{key}"])
    }  # the trunk's batch statistics stay as they are too
    assert changed == {"embedding.weight", "embedding.bias"}
    # Started anew, not gone on from: the layer is nearer to nothing than to what it was.
    weight, was = after["network.embedding.weight"], before["embedding.weight"]
    assert float(F.cosine_similarity(weight.flatten(), was.flatten(), dim=0)) < 0.5


def test_step_three_trains_everything_from_there(people: Path, tmp_path: Path, old: Path) -> None:
    first = fit(harmonic(people, tmp_path / "b", old, harmonic="last", steps=2)).weights
    made = harmonic(people, tmp_path / "c", old, harmonic="all", init=str(first), steps=2, held=0.375, batch_size=9)
    result = fit(made)
    before, after = load_file(first), checkpoint.load(tmp_path / "c" / "last.ckpt")["module"]
    assert sum(not torch.equal(value, after[f"network.{key}"]) for key, value in before.items()) > 40
    assert set(result.figures) == {"auc", "new_old_auc", "old_auc"}
    assert "cross" in logged(tmp_path / "c")


def test_the_old_vectors_are_those_of_the_old_network_on_the_whole_crop(
    people: Path, tmp_path: Path, old: Path
) -> None:
    made = harmonic(people, tmp_path, old, harmonic="all")
    source = made.source()
    network = built("mien.papers.facenet:nn4_small2", ("width=0.05",), 8)
    network.load_state_dict(load_file(old), strict=False)
    network.eval()
    (plain, *_) = source.plain(batch=40)  # type: ignore[attr-defined]
    with torch.no_grad():
        want = network(to_input(torch.from_numpy(plain)))
    drawn = np.stack([source.sample(row, np.random.default_rng(row))["old"] for row in range(40)])
    torch.testing.assert_close(torch.from_numpy(drawn), want, atol=1e-5, rtol=1e-4)


def test_frozen_layers_keep_their_statistics_and_the_embedding_s_norm_learns() -> None:
    torch.manual_seed(0)
    network = built("mien.papers.facenet:inception_resnet_v1", ("width=0.05", "repeats=(1,0,0)"), 8)
    module = Trainee(network, people=0, dim=8, scale=1.0)
    module.freeze_all_but_embedding()
    module.train()
    assert {name for name, p in module.named_parameters() if p.requires_grad} == {
        "network.last_linear.weight", "network.last_bn.weight", "network.last_bn.bias"
    }  # fmt: skip
    training = {name for name, layer in network.named_modules() if layer.training}
    assert training == {"last_linear", "last_bn"}
    module.eval()
    assert not any(layer.training for layer in module.modules())


# --- Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 13}, "dealt out"),
        ({"batch_size": 3}, "dealt out"),
        ({"images": 1}, "dealt out"),
        ({"rule": "semihard"}, "rule"),
        ({"scaled": 20}, "smaller than"),
        ({"held": 1.0}, "out of its range"),
        ({"harmonic": "last"}, "needs the old network"),
        ({"old": "w", "old_network": "a:b"}, "needs the old network"),
        ({"harmonic": "all", "old": "w", "old_network": "a:b", "warm_steps": 3}, "warm_steps"),
    ],
)
def test_wrong_options_teach(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        recipe(tmp_path, tmp_path, **options)


@pytest.mark.parametrize(
    ("reference", "arguments", "message"),
    [
        ("mien.papers.facenet", (), "cannot be built"),
        ("mien.papers.facenets:nn2", (), "facenets"),
        ("mien.papers.facenet:nn5", (), "nn5"),
        ("mien.papers.facenet:nn2", ("depth=3",), "depth"),
        ("mien.papers.facenet:nn2", ("width=half",), "width=half"),
        ("builtins:dict", (), "no network"),
    ],
)
def test_networks_that_cannot_be_built_are_named(reference: str, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        built(reference, arguments, 8)


def test_any_network_with_an_embedding_is_trained() -> None:
    network = built("mien.nn.embedder:embedder_small", (), 16)
    assert isinstance(network, nn.Module)
    out: Tensor = Trainee(network, people=0, dim=16, scale=1.0)(torch.zeros(2, 3, 112, 112))[0]
    assert out.shape == (2, 16)


def test_sets_and_weights_that_do_not_fit_are_named(people: Path, tmp_path: Path, old: Path) -> None:
    with pytest.raises(MienError, match="nowhere"):
        fit(recipe(tmp_path / "nowhere", tmp_path / "run"))
    with pytest.raises(OptionError, match=r"too few people.*8"):
        fit(recipe(people, tmp_path / "few", batch_size=27))
    wide = harmonic(people, tmp_path / "wide", old, harmonic="all", old_arguments="width=0.2")
    with pytest.raises(CheckpointError, match="do not fit"):
        fit(wide)


def test_presets_are_the_numbers_of_the_paper_and_of_the_reimplementation(tmp_path: Path) -> None:
    paper, third, small = (
        TripletRecipe.make(preset=name, data="unused", out=str(tmp_path)) for name in ("paper", "third_party", "small")
    )
    assert (paper.batch_size, paper.images, (paper.batch_size - paper.others) // paper.images) == (1800, 40, 44)
    assert (paper.optimizer, paper.lr, paper.margin, paper.rule, paper.dim) == ("adagrad", 0.05, 0.2, "semi_hard", 128)
    assert (third.batch_size // third.images, third.rule, third.lr, third.ema) == (45, "violator", 0.1, 0.9999)
    assert third.steps * third.batch_size == 500 * 1000 * 90
    assert math.isclose(small.steps * small.batch_size, 51_200)
