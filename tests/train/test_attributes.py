"""All six stages of LNets and ANet, one after the other, on a drawn CelebA in its own layout and on rendered heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mien.errors import OptionError, TableError
from mien.nn.anet import CELEBA
from mien.train.loop import fit
from mien.train.recipes import attributes
from mien.train.recipes.attributes import AttributesRecipe, crop, hits, parts_of, read_tagged

SMALL: dict[str, Any] = {
    "preset": "small", "steps": 2, "batch_size": 4, "images": 2, "threads": 1, "tensorboard": "no", "device": "cpu",
    "channels": (8, 8, 8, 8), "fc": 16, "heads": 20, "checked": 6, "warmup": 0,
}  # fmt: skip


def celeba(root: Path, *, each: int = 3, people: tuple[int, int, int] = (4, 2, 2)) -> Path:
    """A folder as CelebA unpacks: uncropped pictures of two sizes, all lists."""
    rng = np.random.default_rng(0)
    (root / "img_celeba").mkdir(parents=True)
    lists: dict[str, list[str]] = {name: [] for name in ("attr", "identity", "partition", "bbox", "points")}
    number = 0
    for part, count in enumerate(people):
        for who in range(count):
            for _ in range(each):
                number += 1
                name = f"{number:06d}.jpg"
                shape = (80, 64, 3) if number % 2 else (64, 90, 3)
                picture = rng.integers(0, 256, shape, dtype=np.uint8)
                cv2.imwrite(str(root / "img_celeba" / name), picture)
                lists["attr"].append(f"{name} " + " ".join(rng.choice(["1", "-1"], 40)))
                lists["identity"].append(f"{name} {100 * part + who}")
                lists["partition"].append(f"{name} {part}")
                lists["bbox"].append(f"{name} 20 20 24 30")
                lists["points"].append(f"{name} " + " ".join(["30"] * 10))
    head = f"{number}\n"
    (root / "list_attr_celeba.txt").write_text(head + " ".join(CELEBA) + "\n" + "\n".join(lists["attr"]) + "\n")
    (root / "identity_CelebA.txt").write_text("\n".join(lists["identity"]) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(lists["partition"]) + "\n")
    (root / "list_bbox_celeba.txt").write_text(
        head + "image_id x_1 y_1 width height\n" + "\n".join(lists["bbox"]) + "\n"
    )
    titles = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
    (root / "list_landmarks_celeba.txt").write_text(head + titles + "\n" + "\n".join(lists["points"]) + "\n")
    return root


def test_all_stages_run_one_after_the_other_on_celeba(tmp_path: Path) -> None:
    data = str(celeba(tmp_path / "celeba"))

    def run(stage: str, **more: Any) -> tuple[str, dict[str, float]]:
        result = fit(AttributesRecipe.make(**SMALL, stage=stage, data=data, out=str(tmp_path / stage), **more))
        return str(result.weights), result.figures

    lnet_o, figures = run("lnet_o")
    assert figures.keys() == {"accuracy", "balanced", "hit", "iou30"}
    lnet_s, figures = run("lnet_s", lnet_o=lnet_o)
    assert figures.keys() == {"accuracy", "balanced"}
    people, figures = run("identities", lnet_o=lnet_o, lnet_s=lnet_s)
    assert "auc" in figures
    anet, figures = run("anet", lnet_o=lnet_o, lnet_s=lnet_s, init=people)
    assert 0 <= figures["accuracy"] <= 1
    _, figures = run("svm", lnet_o=lnet_o, lnet_s=lnet_s, anet=anet)
    assert figures.keys() == {"accuracy", "balanced", "hit", "iou30"}

    from mien.papers.lnet_anet import load_cascade, look

    whole = load_cascade(tmp_path / "svm" / "weights.safetensors")
    seen = look(whole, tmp_path / "celeba" / "img_celeba" / "000002.jpg")
    assert set(seen.attributes) == set(CELEBA)
    assert seen.response.shape == seen.image.shape[:2] == (64, 90)
    for key, value in AttributesRecipe.make(**SMALL, stage="anet", data=data, out="x").build().state_dict().items():
        assert whole.anet.state_dict()[key].shape == value.shape
    stored = np.load(tmp_path / "anet" / "windows-learnt.npz")["boxes"]
    assert stored.shape == (12, 4)
    assert np.allclose(stored[:, 2] - stored[:, 0], stored[:, 3] - stored[:, 1], atol=1e-3)


def test_the_frozen_part_of_the_last_stage_stays_as_it_was_and_the_machines_learn(tmp_path: Path) -> None:
    data = str(celeba(tmp_path / "celeba"))
    made: dict[str, str] = {}
    for stage in ("lnet_o", "lnet_s", "anet"):
        before = {name: made[name] for name in ("lnet_o", "lnet_s") if name in made and stage != "lnet_o"}
        recipe = AttributesRecipe.make(**SMALL, stage=stage, data=data, out=str(tmp_path / stage), **before)
        made[stage] = str(fit(recipe).weights)
    options = {**SMALL, "steps": 150, "batch_size": 6, "lr": 0.05, "half": False, "ema": 0.0}
    recipe = AttributesRecipe.make(**options, stage="svm", data=data, out=str(tmp_path / "svm"), **made)
    torch.manual_seed(0)
    module: Any = recipe.build()
    recipe.begin(module)
    first = {k: v.clone() for k, v in module.cascade.state_dict().items()}
    features, tags = recipe._features()
    assert features.shape == (6, 10 * 16)  # two people of the second part; five views and their mirror images
    scaled = (features - first["svm.mean"].numpy()) / first["svm.std"].numpy()
    assert np.allclose(scaled.mean(0), 0, atol=1e-3)
    from safetensors.torch import load_file

    stored = load_file(fit(recipe).weights)
    same = [key for key in stored if not key.startswith("svm.") or key in ("svm.mean", "svm.std")]
    assert all(torch.allclose(stored[key], first[key], atol=1e-6) for key in same)
    decisions = torch.from_numpy(scaled) @ stored["svm.coef"].T + stored["svm.intercept"]
    assert ((decisions > 0).numpy() == (tags > 0.5)).mean() > 0.9  # six pictures, 160 numbers: they can be parted


def test_objects_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / "things" / kind).mkdir(parents=True)
        for number in range(30):
            cv2.imwrite(
                str(tmp_path / "things" / kind / f"{number}.png"), rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)
            )
    options = {**SMALL, "stage": "objects", "data": str(tmp_path / "things"), "objects": 2}
    result = fit(AttributesRecipe.make(**options, out=str(tmp_path / "objects")))
    assert result.figures["contrast"] >= 1
    lnet = AttributesRecipe.make(**SMALL, out=str(tmp_path / "lnet_o"), init=str(result.weights))
    assert fit(lnet).steps == 2
    with pytest.raises(OptionError, match="the classes do not fit"):
        fit(AttributesRecipe.make(**{**options, "objects": 1}, out=str(tmp_path / "few")))


def test_torchvision_s_alexnet_is_a_beginning(tmp_path: Path) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(0)
    state = alexnet(num_classes=2).features.state_dict()
    torch.save({f"features.{name}": tensor for name, tensor in state.items()}, tmp_path / "alexnet.pth")
    recipe = AttributesRecipe.make(out=str(tmp_path), variant="torchvision", pretrained=str(tmp_path / "alexnet.pth"))
    module: Any = recipe.build()
    recipe.begin(module)
    assert torch.equal(module.convs.state_dict()["4.weight"], state["10.weight"])


def test_heads_are_the_default_and_comparisons_can_be_asked_for(tmp_path: Path, monkeypatch: Any) -> None:
    recipe = AttributesRecipe.make(**SMALL, out=str(tmp_path / "a"), only=("Smiling", "Male"), shuffled=True)
    learnt, plain = recipe._learnt(), read_tagged(None, heads=20).of_part(0)
    known = np.isfinite(learnt.tags).all(0)
    assert [CELEBA[k] for k in np.flatnonzero(known)] == ["Male", "Smiling"]
    male = CELEBA.index("Male")
    assert sorted(learnt.tags[:, male]) == sorted(plain.tags[:, male])
    assert not np.isfinite(plain.tags[:, CELEBA.index("Attractive")]).any()  # the heads do not tell
    drawn = recipe._tagged()
    monkeypatch.setattr(attributes, "read_tagged", lambda *a, **b: drawn)
    for windows in ("whole", "boxes"):
        result = fit(AttributesRecipe.make(**SMALL, stage="anet", windows=windows, out=str(tmp_path / windows)))
        assert 0 <= result.figures["accuracy"] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "lnet_s"}, "begins with what a former one wrote.*no lnet_o"),
        ({"only": ("Smile",)}, "no such attribute.*did you mean 'Smiling'"),
        ({"stage": "anet", "pretrained": "x"}, "AlexNet's weights fit the LNets"),
        ({"stage": "identities", "images": 3}, "same number of pictures of each"),
        ({"stage": "objects"}, "wants pictures of objects"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        fit(AttributesRecipe.make(**{**SMALL, **options}, out=str(tmp_path)))


def test_a_set_without_attributes_is_refused(tmp_path: Path, made_up: Any) -> None:
    folder = made_up("celeba10k")
    assert read_tagged(str(folder), heads=0).tags.shape == (24, 40)
    (tmp_path / "images.csv").write_text("file,identity,Nice\na.jpg,1,0\n")
    with pytest.raises(TableError, match="none of CelebA's attributes"):
        read_tagged(str(tmp_path), heads=0)


def test_people_are_in_one_part_only() -> None:
    people = np.repeat(np.arange(50), 3)
    part = parts_of(people)
    assert [int((part == k).sum()) for k in range(3)] == [120, 15, 15]
    assert all(len(set(part[people == who].tolist())) == 1 for who in range(50))


def test_crops_are_the_box_and_grey_outside() -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[10:30, 20:40] = 200
    assert (crop(picture, np.array([20, 10, 40, 30]), 10) == 200).all()
    assert (crop(picture, np.array([20, 10, 40, 30]), 40) == 200).all()
    half = crop(picture, np.array([40.0, 20, 80, 60]), 20)
    assert (half[11:, :] == attributes.GREY).all()
    assert (half[:, 11:] == attributes.GREY).all()
    assert (half[:10, :10] == 0).all()
    assert (crop(picture, np.array([200.0, 200, 220, 220]), 8) == attributes.GREY).mean() > 0.7


def test_hits_are_those_of_a_loop() -> None:
    windows = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 15, 15], [0, 0, 1, 1]], float)
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 20], [np.nan] * 4], np.float32)
    peaks = np.array([[5, 5], [5, 5], [9, 19], [0, 0]], float)
    # IoU: 1, 0, 50 / 250.
    assert hits(windows, peaks, boxes) == {"hit": pytest.approx(2 / 3), "iou30": pytest.approx(1 / 3)}
    assert hits(windows[3:], peaks[3:], boxes[3:]) == {}
