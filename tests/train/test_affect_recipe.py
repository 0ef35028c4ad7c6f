"""The recipe of classes with valence and arousal: its graph, its weights, its augmentation, and what it keeps."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mien.errors import OptionError, TableError
from mien.nn.affect import DenseFeatures, GraphNetwork, nodes, stand_in_vectors
from mien.nn.label_graph import correlations, label_graph
from mien.train.loop import fit
from mien.train.recipes.affect import BEST, AffectRecipe, Pictures

TINY: dict[str, Any] = {
    "preset": "small", "heads": 21, "checked": 7, "size": 32, "growth": 8, "blocks": "1,1", "width": 8, "hidden": 8,
    "steps": 2, "batch_size": 7, "workers": 0, "threads": 1, "tensorboard": "no", "device": "cpu",
}  # fmt: skip


def test_the_graph_comes_of_the_training_labels(tmp_path: Path) -> None:
    run = AffectRecipe.make(**TINY, out=str(tmp_path))
    module = run.build()
    run.begin(module)
    assert isinstance(module, GraphNetwork)
    train = run._train
    want = label_graph(correlations(train.labels, train.affect, classes=7), classes=7)
    assert torch.equal(module.head.graph, want)
    assert torch.equal(module.head.vectors, stand_in_vectors(nodes()))
    published = AffectRecipe.make(**TINY, out=str(tmp_path), graph="affectnet", propagation="none")
    published.begin(module)
    assert torch.equal(module.head.graph, torch.eye(9))


def test_word_vectors_and_first_features_come_of_files(tmp_path: Path) -> None:
    words = np.random.default_rng(0).normal(size=(9, 24)).astype(np.float32)
    np.save(tmp_path / "words.npy", words)
    trunk = DenseFeatures(growth=8, blocks=(1, 1), width=8)
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    more = {"vectors": str(tmp_path / "words.npy"), "trunk": str(tmp_path / "trunk.pth"), "out": str(tmp_path)}
    run = AffectRecipe.make(**TINY, **more, word_dim=24)
    module = run.build()
    run.begin(module)
    assert np.array_equal(module.get_buffer("head.vectors").numpy(), words)
    assert torch.equal(module.get_parameter("backbone.features.conv0.weight"), trunk.features.conv0.weight)  # type: ignore[union-attr, arg-type]
    wrong = AffectRecipe.make(**TINY, **more)
    with pytest.raises(TableError, match="another length"):
        wrong.begin(wrong.build())


def test_few_classes_are_known_and_weigh_by_how_rare_they_are() -> None:
    run = AffectRecipe.make(**TINY, out="unused", known=0.5)
    labels = run._labels
    assert (labels >= 0).sum() == round(0.5 * 21)
    assert np.array_equal(labels[labels >= 0], run._train.labels[labels >= 0])
    assert run._weights is not None
    assert float(run._weights.max()) == 1
    assert AffectRecipe.make(**TINY, out="unused", weighted="no")._weights is None


def test_pictures_are_mirrored_and_turned_and_as_they_are_when_measured() -> None:
    run = AffectRecipe.make(**TINY, out="unused")
    train = run._train
    still = Pictures(train, train.labels, size=32, flip=False, rotate=0.0, official=False)
    assert np.array_equal(still.sample(0, np.random.default_rng(0))["image"], still.picture(0))
    assert sum(map(len, still.batches(8))) == 21
    mirrored = Pictures(train, train.labels, size=32, flip=True, rotate=0.0, official=False)
    seen = {mirrored.sample(0, np.random.default_rng(k))["image"].tobytes() for k in range(12)}
    assert seen == {still.picture(0).tobytes(), np.ascontiguousarray(still.picture(0)[:, ::-1]).tobytes()}
    turned = Pictures(train, train.labels, size=32, flip=False, rotate=30.0, official=False)
    some = [turned.sample(0, np.random.default_rng(k))["image"] for k in range(6)]
    assert len({one.tobytes() for one in some}) == 6
    corners = np.array([[one[0, 0].any(), one[0, -1].any(), one[-1, 0].any(), one[-1, -1].any()] for one in some])
    assert not corners.all(1).all()  # black came into view
    seen_by = run._seen(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))
    assert seen_by[0, :, 0, 0].tolist() == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-4)


def test_the_best_network_by_accuracy_is_kept_and_a_former_run_s_is_not(tmp_path: Path) -> None:
    (tmp_path / BEST).write_bytes(b"of a former run")
    run = AffectRecipe.make(**TINY, out=str(tmp_path), eval_every=1)
    result = fit(run)
    best = run.best_figures()
    assert best is not None
    with (tmp_path / "log.csv").open() as opened:
        measured = [float(row["value"]) for row in csv.DictReader(opened) if row["name"] == "eval/accuracy"]
    assert best["accuracy"] == pytest.approx(max(measured), rel=1e-5)
    assert {"balanced_accuracy", "macro_f1", "abaw", "ccc_valence", "rmse_arousal"} <= set(result.figures)
    assert set(load_file(tmp_path / BEST)) == set(load_file(result.weights))
    single = fit(AffectRecipe.make(**TINY, out=str(tmp_path / "single"), head="single", best="no"))
    assert "ccc" not in single.figures
    assert not (tmp_path / "single" / BEST).exists()


def test_the_rate_falls_by_steps() -> None:
    run = AffectRecipe.make(
        out="unused", schedule="steps", drop_every=10, warmup=2, steps=30, optimizer="sgd", data="unused"
    )
    assert [round(run.pace(step), 6) for step in (0, 1, 9, 10, 25)] == [0.5, 1, 1, 0.1, 0.01]
    paper = AffectRecipe.make(preset="affectnet", out="unused", data="unused")
    assert {paper.pace(step) for step in (0, 50_000, 81_113)} == {1.0}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"known": 0}, "out of its range"),
        ({"schedule": "steps"}, "needs to know when"),
        ({"emotions": 8, "data": "there", "graph": "affectnet"}, "graph=data"),
        ({"emotions": 8}, "seven classes"),
        ({"head": "two"}, "wrong type"),
    ],
)
def test_wrong_numbers_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        AffectRecipe.make(**{**TINY, "out": "unused", **options})


def test_a_set_of_the_real_format_trains_eight_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train_set", 16), ("val_set", 8)):
        for number in range(count):
            folder = tmp_path / part
            (folder / "annotations").mkdir(parents=True, exist_ok=True)
            (folder / "images").mkdir(exist_ok=True)
            values = {"exp": number % 8, "val": rng.uniform(-1, 1), "aro": rng.uniform(-1, 1)}
            for key, value in values.items():
                np.save(folder / "annotations" / f"{number}_{key}.npy", np.array(str(value)))
            cv2.imwrite(str(folder / "images" / f"{number}.jpg"), rng.integers(0, 256, (40, 40, 3), np.uint8))
    run = AffectRecipe.make(**{**TINY, "out": str(tmp_path / "run"), "data": str(tmp_path), "emotions": 8})
    result = fit(run)
    assert load_file(result.weights)["head.graph"].shape == (10, 10)
    assert 0 <= result.figures["accuracy"] <= 1
