"""The parser's masks, its loss derived again, and how a first network labels photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien.errors import OptionError
from mien.nn.landmarks import Landmarks
from mien.nn.parser import CLASSES, MIRRORED, SIDE, Parser
from mien.train.checkpoint import save_weights
from mien.train.loop import fit
from mien.train.recipes import parser
from mien.train.recipes.parser import UNKNOWN, Masked, ParserRecipe, parser_loss, with_polygons

TINY: dict[str, Any] = {"widths": (8, 8, 8), "depths": (1, 1, 1), "fine": 4, "up": (8, 8, 8)}


def test_left_and_right_change_places_in_the_mirror() -> None:
    changed = {CLASSES[k]: CLASSES[m] for k, m in enumerate(MIRRORED) if k != m}
    assert changed == {
        "l_eye": "r_eye", "r_eye": "l_eye", "l_brow": "r_brow", "r_brow": "l_brow", "l_ear": "r_ear", "r_ear": "l_ear",
    }  # fmt: skip


def test_the_loss_leaves_out_what_nobody_knows() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 19, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.randint(0, 4, (2, 4, 5), generator=generator)
    mask[0, :2] = UNKNOWN
    total, parts = parser_loss(logits, mask, dice=0.5)
    p = logits.detach().softmax(1).numpy()
    entropy, both, sizes = [], np.zeros(19), np.zeros(19)
    present = set()
    for b in range(2):
        for y in range(4):
            for x in range(5):
                c = int(mask[b, y, x])
                if c == UNKNOWN:
                    continue
                present.add(c)
                entropy.append(-np.log(p[b, c, y, x]))
                both[c] += p[b, c, y, x]
                sizes += p[b, :, y, x]
                sizes[c] += 1
    dice = np.mean([1 - 2 * both[c] / sizes[c] for c in sorted(present)])
    assert total.item() == pytest.approx(np.mean(entropy) + 0.5 * dice, rel=1e-12)
    assert parts["dice"].item() == pytest.approx(dice, rel=1e-12)
    total.backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, :2].any()
    assert logits.grad[1].abs().sum() > 0


def test_nothing_known_is_no_loss_but_no_failure_of_dice() -> None:
    logits = torch.randn(1, 19, 3, 3)
    mask = torch.zeros(1, 3, 3, dtype=torch.long)
    mask[0, 0] = UNKNOWN
    assert torch.isfinite(parser_loss(logits, mask, dice=1.0)[0])


def test_a_mirrored_sample_has_its_eyes_exchanged() -> None:
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    left, right = CLASSES.index("l_eye"), CLASSES.index("r_eye")
    mask[40:60, 30:50], mask[40:60, 78:98] = left, right
    mask[:4] = UNKNOWN
    matrix = np.eye(2, 3, dtype=np.float32)[None]
    source = Masked([picture], [mask], matrix, strength=0.3)
    for seed in range(6):  # mirrored or not, the left one lies on the left
        found = source.sample(0, np.random.default_rng(seed))["mask"]
        assert np.nonzero(found == left)[1].mean() < SIDE / 2 < np.nonzero(found == right)[1].mean()
        assert (found == UNKNOWN).any()


def test_the_points_bound_eyes_and_lips() -> None:
    from mien.geometry.mean_shape import MEAN70

    points = np.asarray(MEAN70, np.float32)[:68, :2]
    points = 64 + 40 * (points - points.mean(0)) / np.abs(points - points.mean(0)).max()
    lips = CLASSES.index("u_lip")
    seen = np.full((SIDE, SIDE), UNKNOWN, np.uint8)
    seen[0, 0] = lips
    painted = with_polygons(seen, points)
    eye = points[36:42].mean(0).round().astype(int)
    assert painted[eye[1], eye[0]] == CLASSES.index("l_eye")
    assert (painted == CLASSES.index("l_lip")).any()
    no_lips = with_polygons(np.full((SIDE, SIDE), UNKNOWN, np.uint8), points)
    assert not (no_lips == CLASSES.index("l_lip")).any()
    glasses = seen.copy()
    glasses[20:40, 20:60] = CLASSES.index("eye_g")
    assert not (with_polygons(glasses, points) == CLASSES.index("l_eye")).any()


def test_a_network_that_follows_the_points_has_all_of_their_f1(made_up: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made_up("fairface_faces")
    files, points, matrices = parser.chips_with_points(root, split="validation", count=100)
    assert len(files) == len(points) == len(matrices) > 0
    moved = np.einsum("nij,npj->npi", matrices[:, :, :2], points) + matrices[:, None, :, 2]
    truth = np.stack([parser.painted(np.zeros((SIDE, SIDE), np.uint8), some.astype(np.float32)) for some in moved])
    # Where the points of a made-up face fall on one line, a part has no pixels and no F1.
    parts = [CLASSES.index(name) for name, _ in parser.POLYGONS]
    whole = np.mean([(truth == part).any() for part in parts])

    def found(change: np.ndarray) -> float:  # type: ignore[type-arg]
        said = torch.from_numpy(np.where(change, 0, truth)).long()
        answer = torch.nn.functional.one_hot(said, len(CLASSES)).movedim(3, 1).float()
        rows = iter(answer.split(64))
        monkeypatch.setattr(parser, "probabilities", lambda *_: next(rows))
        return parser.f1_by_points(torch.nn.Identity(), root, count=100)

    assert found(np.zeros_like(truth, bool)) == pytest.approx(whole)
    assert whole > 0
    assert found(np.ones_like(truth, bool)) == 0
    half = np.zeros_like(truth, bool)
    half[:, :, ::2] = True
    share = [((truth == p) & ~half).sum() / max((truth == p).sum(), 1) for p in parts]
    assert found(half) == pytest.approx(np.mean([2 * s / (1 + s) for s in share]))


class Everywhere(torch.nn.Module):
    """A landmark network that finds the mean face in the middle of every crop, `off` pixels to the right."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self.off = torch.nn.Parameter(torch.tensor(off))

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        from mien.geometry.mean_shape import MEAN70

        points = torch.tensor(np.asarray(MEAN70, np.float32)) * 20
        points[:, :2] += 55.5
        points[:, 0] += self.off
        return points.expand(len(crops), -1, -1)


def test_heads_are_placed_by_the_points_that_a_network_finds() -> None:
    options: dict[str, Any] = {"seed": 3, "strength": 0.0}
    true = parser.rendered(4, **options)
    here, there = (parser.rendered(4, **options, landmarks=Everywhere(off)) for off in (0.0, 8.0))
    assert np.array_equal(true.pictures[0], here.pictures[0])
    assert not np.allclose(true.matrices, here.matrices)
    # Points further to the right in the picture, and the crop goes with them.
    np.testing.assert_allclose(here.matrices[:, :, :2], there.matrices[:, :, :2], atol=1e-4)
    assert (there.matrices[:, 0, 2] < here.matrices[:, 0, 2] - 1).all()


def test_heads_turned_by_any_angle() -> None:
    from mien.data import heads

    sampled = heads.sample(300, seed=5)
    assert (np.abs(sampled.pose[:, 0]) > 60).mean() < 0.15
    assert np.array_equal(parser.turned_heads(300, seed=5, start=0, share=0.0).pose, sampled.pose)
    turned = parser.turned_heads(300, seed=5, start=0, share=1.0)
    assert (np.abs(turned.pose[:, 0]) > 60).mean() == pytest.approx(1 / 3, abs=0.08)
    assert np.array_equal(turned.pose[:, 1:], sampled.pose[:, 1:])


def test_a_teacher_labels_photographs(made_up: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = Parser(**TINY).eval()
    save_weights(tmp_path / "teacher.safetensors", teacher)
    photos = parser.labelled(made_up("fairface_faces"), teacher, sure=0.0, count=3, strength=0.0)
    assert len(photos) == 3
    assert all((mask != UNKNOWN).any() for mask in photos.masks)
    unsure = parser.labelled(made_up("fairface_faces"), teacher, sure=1.1, count=3, strength=0.0)
    assert (unsure.masks[0] != UNKNOWN).mean() < (photos.masks[0] != UNKNOWN).mean()
    numbers = {
        **TINY, "heads": 4, "photos": 3, "checked": 2, "steps": 2, "batch_size": 2, "workers": 0, "threads": 1,
        "tensorboard": "no", "device": "cpu", "out": str(tmp_path / "run"), "faces": str(made_up("fairface_faces")),
    }  # fmt: skip
    result = fit(ParserRecipe.make(**numbers, teacher=str(tmp_path / "teacher.safetensors")))
    assert 0 <= result.figures["f1"] <= 1
    assert 0 <= result.figures["points_f1"] <= 1
    assert "turned_f1" not in result.figures
    save_weights(tmp_path / "landmarks.safetensors", Landmarks())
    placed = ParserRecipe.make(
        **{**numbers, "out": str(tmp_path / "placed"), "turned": 0.5},
        teacher=str(tmp_path / "teacher.safetensors"), landmarks=str(tmp_path / "landmarks.safetensors"),
    )  # fmt: skip
    assert 0 <= fit(placed).figures["turned_f1"] <= 1
    with pytest.raises(OptionError, match="teacher"):
        fit(ParserRecipe.make(**{**numbers, "out": str(tmp_path / "other")}))
