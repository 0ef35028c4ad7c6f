"""Joint training on sets with missing labels: readers, crops with their labels, equal shares, figures."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from mien.data.formats.landmarks import write_pts
from mien.errors import CheckpointError, MediaNotFound, OptionError, TableError
from mien.geometry.landmarks import FLIP68
from mien.geometry.mean_shape import MEAN70
from mien.geometry.pose import euler_from_rotation, rotation_from_euler
from mien.nn import facex
from mien.train import task_sets
from mien.train.loop import fit
from mien.train.recipes import face_tasks
from mien.train.recipes.face_tasks import FaceTasksRecipe
from mien.train.task_sets import Item
from mien.train.tasks import ATTRIBUTES, CLASSES, COFW29, COFW_FLIP, EXPRESSIONS7, MIRRORED, angles_of, rotation_of

POINTS = (np.asarray(MEAN70)[:68, :2] * 20 + 40).astype(np.float32)


def picture(folder: Path, name: str, side: int = 48, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    assert cv2.imwrite(str(folder / name), image)


class Made:
    """Pictures of one colour, numbered, that serve some tasks."""

    def __init__(self, count: int, *tasks: str) -> None:
        self.names, self.tasks = [f"{tasks}{row}" for row in range(count)], tasks

    def item(self, row: int) -> Item:
        return Item(np.full((40, 40, 3), row, np.uint8), attributes=np.ones(40, np.float32), age=30.0, gender=1)


# --- Readers ---------------------------------------------------------------------------------------------------------


def test_masks_of_celebamask_hq_are_painted_over_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "CelebAMask-HQ-mask-anno" / "0"
    for number in (0, 3):
        picture(tmp_path / "CelebA-HQ-img", f"{number}.jpg", 64)
        for name, area in {"skin": np.s_[4:28, 4:28], "hat": np.s_[0:6, :], "r_eye": np.s_[10:14, 18:24]}.items():
            folder.mkdir(parents=True, exist_ok=True)
            mask = np.zeros((32, 32), np.uint8)
            mask[area] = 255
            cv2.imwrite(str(folder / f"{number:05d}_{name}.png"), mask)
    (folder / "00009_skin.png").write_bytes((folder / "00003_skin.png").read_bytes())  # without a picture
    part = task_sets.MaskedCelebs(tmp_path)
    assert (part.names, part.tasks) == (["0", "3"], ("parsing",))
    item = part.item(1)
    assert item.mask is not None
    assert item.picture.shape == (32, 32, 3)
    told = np.array(CLASSES)[item.mask]
    assert told[5, 5] == "background"  # a hat lies over the skin, and is none of the classes
    assert (told[8, 8], told[11, 20], told[30, 30]) == ("skin", "r_eye", "background")
    with pytest.raises(MediaNotFound, match="no pictures with masks"):
        task_sets.MaskedCelebs(tmp_path / "CelebA-HQ-img")


def test_300w_and_300w_lp_give_boxes_around_their_points(tmp_path: Path) -> None:
    picture(tmp_path / "a", "1.png", 80)
    write_pts(tmp_path / "a" / "1.pts", POINTS)
    item = task_sets.Pointed(tmp_path / "a").item(0)
    assert item.points is not None
    np.testing.assert_allclose(item.points, POINTS, atol=1e-4)
    assert item.box is not None
    assert item.box[1] < POINTS[:, 1].min()  # up to the hairline
    picture(tmp_path / "b" / "AFW", "x_0.jpg", 80)
    pose = np.array([[0.2, -0.5, 0.1, 30, 40, 50, 0.001]])
    savemat(tmp_path / "b" / "AFW" / "x_0.mat", {"Pose_Para": pose, "pt2d": POINTS.T})
    item = task_sets.Posed(tmp_path / "b").item(0)
    assert item.rotation is not None
    np.testing.assert_allclose(angles_of(item.rotation[None])[0], pose[0, :3], atol=1e-5)
    savemat(tmp_path / "b" / "AFW" / "x_0.mat", {"Shape_Para": pose})
    with pytest.raises(TableError, match="Pose_Para"):
        task_sets.Posed(tmp_path / "b").item(0)
    with pytest.raises(MediaNotFound, match="no poses"):
        task_sets.Posed(tmp_path / "a")


def test_attributes_ages_visible_points_and_votes(tmp_path: Path, made_up: Any) -> None:
    table = task_sets.Attributed(made_up("celeba10k"))
    item = table.item(0)
    assert item.attributes is not None
    known = [name for name, flag in zip(ATTRIBUTES, item.attributes, strict=True) if not math.isnan(flag)]
    assert "Smiling" in known
    assert len(known) < 40
    for name in ("31_1_2_20170104.jpg.chip.jpg", "7_0_4_2017.jpg", "notes.jpg"):
        picture(tmp_path / "utk", name)
    ages = task_sets.Aged(tmp_path / "utk")
    assert ages.rows == [(31.0, 1, 2), (7.0, 0, 4)]
    assert (ages.item(1).age, ages.item(1).gender, ages.item(1).race) == (7.0, 0, 4)
    fair = task_sets.Aged(made_up("fairface_faces"))
    assert fair.rows[0] == (25.0, 0, 2)  # "20-29", Male, East Asian
    assert task_sets._middle("more than 70") == 75.0
    picture(tmp_path / "cofw", "a.png")
    flags = [0, 1] * 14 + [1]
    header = ["file", "x_min", "y_min", "x_max", "y_max", *(f"v{k}" for k in range(29))]
    rows = [",".join(header), ",".join(map(str, ["a.png", 4, 5, 40, 44, *flags]))]
    (tmp_path / "cofw" / "images.csv").write_text("\n".join(rows) + "\n")
    seen = task_sets.Seen(tmp_path / "cofw").item(0)
    assert seen.visible is not None
    assert seen.visible.tolist() == flags
    assert list(seen.box or ()) == [4, 5, 40, 44]
    votes = task_sets.Voted(made_up("ferplus"))
    assert {votes.item(row).expression for row in range(len(votes.names))} <= set(range(len(EXPRESSIONS7)))
    with pytest.raises(MediaNotFound, match="with an age"):
        task_sets.Aged(tmp_path / "nowhere")
    (tmp_path / "cofw" / "images.csv").write_text("file,v0\na.png,1\n")
    with pytest.raises(TableError, match="no v1"):
        task_sets.Seen(tmp_path / "cofw")


# --- Crops -----------------------------------------------------------------------------------------------------------


def test_points_masks_and_flags_move_with_the_picture() -> None:
    rng = np.random.default_rng(3)
    mask = np.zeros((80, 80), np.uint8)
    mask[30:36, 20:28] = CLASSES.index("l_eye")
    image = np.repeat((mask[..., None] > 0) * np.uint8(255), 3, 2)
    visible = np.arange(29, dtype=np.float32)
    points = POINTS.copy()
    points[36] = 24, 33  # the corner of the eye stands in the middle of its patch
    item = Item(image, box=(16, 10, 64, 70), mask=mask, points=points, visible=visible)
    mirrored = 0
    for _ in range(12):
        matrix = face_tasks.crop_map(item, 64, rng, 0.5)
        found = face_tasks.labelled_crop(item, matrix, 64, ("parsing", "landmarks", "visibility"))
        flip = np.linalg.det(matrix[:, :2]) < 0
        mirrored += bool(flip)
        name = "r_eye" if flip else "l_eye"
        there = np.argwhere(found["parsing"] == CLASSES.index(name)).mean(0)[::-1]
        local = ((found["landmarks"].reshape(68, 2) + 1) * 64 - 1) / 2
        np.testing.assert_allclose(local[45 if flip else 36], there, atol=1.5)
        assert found["image"][int(there[1]), int(there[0])].min() > 200
        np.testing.assert_allclose(local[FLIP68] if flip else local, points @ matrix[:, :2].T + matrix[:, 2], atol=1e-3)
        assert found["visibility"].tolist() == (visible[list(COFW_FLIP)] if flip else visible).tolist()
        assert np.isnan(found["pose"]).all()
        assert (found["gender"], math.isnan(found["age"])) == (-1, True)
    assert 0 < mirrored < 12
    # The box without changes: a square of one and a half of its longer side, about its centre.
    plain = face_tasks.crop_map(item, 64, None, 0)
    corners = np.array([[40 - 45, 40 - 45], [40 + 45, 40 + 45]]) - 0.5
    np.testing.assert_allclose(corners @ plain[:, :2].T + plain[:, 2], [[-0.5, -0.5], [63.5, 63.5]], atol=1e-4)
    outside = face_tasks.labelled_crop(Item(image, points=points + 100), plain, 64, ("landmarks",))
    assert (outside["landmarks"] > 1).any()  # kept, not clipped


def test_mirrored_schemes_are_their_own_inverse() -> None:
    for flip in (MIRRORED, COFW_FLIP):
        assert [flip[k] for k in flip] == list(range(len(flip)))
    assert len(COFW29) == 29
    for point, other in enumerate(COFW_FLIP):  # the 68 points that stand for them are mirror images as well
        assert {int(FLIP68[k]) for k in COFW29[point]} == set(COFW29[other])


def test_poses_turn_and_mirror_with_the_picture() -> None:
    pose = np.array([25.0, -12.0, 8.0])
    item = Item(np.zeros((64, 64, 3), np.uint8), rotation=rotation_from_euler(pose).astype(np.float32))

    def told(matrix: Any) -> Any:
        return euler_from_rotation(face_tasks.labelled_crop(item, np.float32(matrix), 64, ("pose",))["pose"])

    np.testing.assert_allclose(told([[1, 0, 0], [0, 1, 0]]), pose, atol=1e-3)
    np.testing.assert_allclose(told([[-2, 0, 63], [0, 2, 0]]), pose * [-1, 1, -1], atol=1e-3)
    c, s = math.cos(math.radians(10)), math.sin(math.radians(10))
    turned = told([[c, -s, 0], [s, c, 0]])  # clockwise as seen
    whole = rotation_from_euler(np.array([0.0, 0.0, 10.0])) @ rotation_from_euler(pose)
    np.testing.assert_allclose(turned, euler_from_rotation(whole), atol=1e-3)
    level = Item(np.zeros((64, 64, 3), np.uint8), rotation=np.eye(3, dtype=np.float32))
    found = face_tasks.labelled_crop(level, np.float32([[-c, -s, 0], [-s, c, 0]]), 64, ("pose",))["pose"]
    np.testing.assert_allclose(euler_from_rotation(found), [0, 0, 10], atol=1e-3)  # mirrored, then turned


def test_light_and_covers_change_pixels_and_nothing_else() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert face_tasks.photometric(image, np.random.default_rng(0), 0.0) is image
    kept = image.copy()
    for seed in range(8):
        changed = face_tasks.photometric(image, np.random.default_rng(seed), 2.0)
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
    assert np.array_equal(image, kept)


# --- Shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "processes"), [(6, 1), (7, 1), (12, 2)])
def test_every_group_has_an_equal_share_and_small_sets_come_round_more_often(batch: int, processes: int) -> None:
    parts = [(Made(count, task), np.arange(count)) for count, task in ((5, "attributes"), (40, "age"), (3, "pose"))]
    groups = ("attributes", "age", "pose")
    source = face_tasks.Joint(parts, groups, size=32, strength=0.0, everything=False)
    draws = face_tasks.EqualDraws(source, batch_size=batch, processes=processes, seed=1)
    steps = 60
    drawn = [draws.index(position) for position in range(steps * batch)]
    placed = [source.place(index) for index in drawn]
    shares = Counter(groups[group] for group, _, _ in placed)
    assert max(shares.values()) - min(shares.values()) <= processes
    for process in range(processes):  # each of them sees all groups alike
        mine = [placed[step * batch + k][0] for step in range(steps) for k in range(process, batch, processes)]
        assert max(Counter(mine).values()) - min(Counter(mine).values()) <= 1
    for group, count in enumerate((5, 40, 3)):
        rows = Counter(row for g, _, row in placed if g == group)
        assert len(rows) == count
        assert max(rows.values()) - min(rows.values()) <= 2  # epoch after epoch, each a permutation
    again = face_tasks.EqualDraws(source, batch_size=batch, processes=processes, seed=1)
    assert [again.index(p) for p in (100, 3, 57)] == [drawn[p] for p in (100, 3, 57)]


def test_a_picture_counts_for_what_it_was_drawn_for_or_for_all_that_is_known() -> None:
    part = (Made(4, "attributes", "age"), np.arange(4))
    for everything in (False, True):
        source = face_tasks.Joint([part], ("attributes", "age"), size=32, strength=0.0, everything=everything)
        assert len(source) == 8
        first, last = (source.sample(index, np.random.default_rng(0)) for index in (1, 6))
        assert np.isfinite(first["attributes"]).all()
        assert math.isnan(first["age"]) is not everything
        assert np.isfinite(last["attributes"]).all() == everything
        assert (last["age"], last["gender"]) == (30.0, 1)
    with pytest.raises(OptionError, match=r"nothing has labels.*pose"):
        face_tasks.Joint([part], ("attributes", "pose"), size=32, strength=0.0, everything=True)


# --- Recipe ----------------------------------------------------------------------------------------------------------


def test_a_joint_run_on_real_formats_measures_what_is_held_out(tmp_path: Path, made_up: Any) -> None:
    for number in range(12):
        picture(tmp_path / "utk", f"{20 + number}_{number % 2}_{number % 5}_2017.jpg", seed=number)
    recipe = FaceTasksRecipe.make(
        preset="small", out=tmp_path / "run", attributes=made_up("celeba10k"), ages=tmp_path / "utk", heads=0,
        held=0.4, steps=3, batch_size=6, size=32, dim=32, widths="8,8,16,16", hidden=32, workers=0, device="cpu",
        labels="task", tensorboard="no", half=False,
    )  # fmt: skip
    assert recipe.groups == ("attributes", "age")
    assert list(recipe.arguments()["outputs"]) == ["attributes", "age", "gender", "race"]
    assert recipe.arguments()["masks"] == 0
    result = fit(recipe)
    assert set(result.figures) == {"attributes_accuracy", "age_mae", "gender_accuracy", "race_accuracy"}
    part = task_sets.Aged(tmp_path / "utk")
    learnt, held = (set(recipe._rows(part, held=held).tolist()) for held in (False, True))
    assert learnt
    assert held
    assert not learnt & held


def test_presets_options_and_the_schedule() -> None:
    paper = FaceTasksRecipe.make(preset="paper", out="o")
    assert paper.groups == ("parsing", "landmarks", "pose", "attributes", "age", "visibility")
    assert list(paper.arguments()["outputs"]) == list(facex.OUTPUTS)
    assert paper.steps == 12 * (162_770 * 6 // 384)
    paces = [paper.pace(step) for step in (0, paper.steps // 2 - 1, paper.steps // 2, paper.steps - 1)]
    assert paces == pytest.approx([1, 1, 0.1, 0.01])
    assert FaceTasksRecipe.make(out="o", expressions="f", ages="a").groups == ("age", "expression")
    assert FaceTasksRecipe.make(out="o", heads=3).groups == ("parsing", "landmarks", "pose", "attributes", "visibility")
    assert FaceTasksRecipe.make(out="o", heads=3, tasks="pose").groups == ("pose",)
    with pytest.raises(OptionError, match="unknown task"):
        FaceTasksRecipe.make(out="o", tasks="mood")
    with pytest.raises(OptionError, match="out of its range"):
        FaceTasksRecipe.make(out="o", held=1.0)


def test_an_encoder_starts_from_a_classifier_s_file(tmp_path: Path) -> None:
    from torchvision.models import SwinTransformer

    torch.manual_seed(0)
    other = SwinTransformer([4, 4], 16, [1, 1], [1, 2], [4, 4], num_classes=3)
    torch.save(other.state_dict(), tmp_path / "swin.pth")
    own = facex.encoder("swin", embed_dim=16, depths=(1, 1), heads=(1, 2), window=4)
    face_tasks.fill_encoder(own, tmp_path / "swin.pth")
    theirs = other.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in own.state_dict().items())
    with pytest.raises(CheckpointError, match="not of the same encoder"):
        face_tasks.fill_encoder(facex.encoder("conv"), tmp_path / "swin.pth")
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot read the encoder"):
        face_tasks.fill_encoder(own, tmp_path / "no.safetensors")


# --- Figures ---------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_their_tasks() -> None:
    def figure(name: str, found: Any, truth: Any) -> float:
        (value,) = face_tasks.figures_of(name, np.asarray(found), np.asarray(truth), 64).values()
        return value

    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, :2], mask[0, 3] = 1, 255
    found = np.zeros((1, 4, 4), np.uint8)
    found[0, 0] = 1
    assert figure("parsing", found, mask) == pytest.approx(2 * 4 / (4 + 8))
    unit = ((2 * POINTS + 1) / 64 - 1).reshape(1, 136)
    off = unit + np.tile([2 / 64, 0], 68)[None]
    eyes = np.linalg.norm(POINTS[45] - POINTS[36])
    assert figure("landmarks", off, unit) == pytest.approx(1 / eyes, rel=1e-4)
    angles = np.array([[0.1, 0.2, -0.1]], np.float32)
    same = rotation_of(torch.from_numpy(angles)).numpy()
    assert figure("pose", angles, same) == pytest.approx(0, abs=1e-3)
    turned = rotation_of(torch.tensor([[0.1, 0.2, -0.1 + math.radians(6)]])).numpy()
    assert figure("pose", angles, turned) == pytest.approx(2, abs=0.3)
    assert figure("attributes", [[1.0, -1.0, 2.0]], [[1.0, 1.0, math.nan]]) == 0.5
    assert figure("age", [[0.0] * 7 + [50.0]], np.float32([60])) == pytest.approx(15)
    assert figure("race", [[0.0, 1.0], [3.0, 1.0]], [1, -1]) == 1.0
    assert face_tasks.figures_of("gender", np.zeros((2, 2)), np.array([-1, -1]), 64) == {}


def test_hidden_points_are_found_at_a_precision() -> None:
    hidden = np.array([True, True, False, True, False, False])
    score = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert face_tasks.recall_at_precision(score, hidden, 0.8) == pytest.approx(2 / 3)
    assert face_tasks.recall_at_precision(score, hidden, 0.75) == 1.0
    assert face_tasks.recall_at_precision(-score, hidden, 0.8) == 0.0
    assert face_tasks.recall_at_precision(np.zeros(6), hidden, 0.5) == 1.0  # of one score, found together
    assert math.isnan(face_tasks.recall_at_precision(score, np.zeros(6, bool), 0.8))
