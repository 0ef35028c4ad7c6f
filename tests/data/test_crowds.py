"""Scenes of several heads, and sets with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mien.data import crowds
from mien.data.parsed import LAPA, box_of_106, parsed, rendered
from mien.errors import OptionError, TableError
from mien.faces import PARSING


def test_scenes_hold_the_target_where_the_box_says() -> None:
    heads = crowds.heads(5, seed=3)
    upright = crowds.compose(heads, seed=3)
    again = crowds.compose(heads, seed=3)
    assert np.array_equal(upright.images, again.images)
    assert np.abs(upright.roll).max() <= 14
    skin = np.isin(upright.masks, [PARSING.index(name) for name in ("skin", "nose", "u_lip", "l_lip", "mouth")])
    for row, (x1, y1, x2, y2) in enumerate(upright.boxes):
        assert 18 <= y2 - y1 <= 46  # of a turned face somewhat higher than of an upright one
        rows, columns = np.nonzero(skin[row])
        inside = (columns >= x1 - 2) & (columns <= x2 + 2) & (rows >= y1 - 3) & (rows <= y2 + 2)
        assert inside.mean() > 0.8
    rolled = crowds.compose(heads, seed=3, roll=180.0)
    assert np.abs(rolled.roll).max() > 14
    assert not np.array_equal(rolled.masks, upright.masks)
    assert len(upright.take([0, 2])) == 2


def test_neighbours_are_seen_and_not_labelled() -> None:
    heads = crowds.heads(4, seed=1)
    alone = crowds.compose(heads, seed=1, neighbours=0)
    among = crowds.compose(heads, seed=1, neighbours=3)
    assert (among.images != alone.images).any(-1).mean() > 0.05
    # In front they hide the target, so that labels only vanish.
    assert ((among.masks == alone.masks) | (among.masks == 0)).mean() > 0.95
    with pytest.raises(OptionError, match="too few heads"):
        crowds.compose(heads, seed=1, neighbours=4)
    with pytest.raises(OptionError, match="out of range"):
        crowds.compose(heads, seed=1, roll=200.0)


def test_heads_of_other_numbers_are_other_people() -> None:
    one, other = (crowds.crowds(4, seed=1, start=start, neighbours=1) for start in (0, 1000))
    assert not np.array_equal(one.images, other.images)


def lapa(folder: Path, count: int = 3) -> Path:
    """A set of LaPa's layout."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for part in ("images", "labels", "landmarks"):
            (folder / split / part).mkdir(parents=True)
        for number in range(count):
            stem = f"{split}_{number}"
            Image.fromarray(rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(
                folder / split / "images" / f"{stem}.jpg"
            )
            mask = np.zeros((60, 50), np.uint8)
            mask[10:45, 12:40] = np.arange(35)[:, None] % 11
            Image.fromarray(mask).save(folder / split / "labels" / f"{stem}.png")
            points = points106()
            lines = "\n".join(f"{x:.2f} {y:.2f}" for x, y in points)
            (folder / split / "landmarks" / f"{stem}.txt").write_text(f"106\n{lines}\n")
    return folder


def points106() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """A jaw from (12, 20) over the chin at (26, 45) to (40, 20), brows at a height of 18."""
    angle = np.linspace(np.pi, 0, 33)
    jaw = np.stack([26 + 14 * np.cos(angle), 20 + 25 * np.sin(angle)], 1)
    rest = np.tile([[26.0, 18.0]], (73, 1))
    return np.concatenate([jaw, rest]).astype(np.float32)


def test_lapa_is_read_with_boxes_from_its_points(tmp_path: Path) -> None:
    found = parsed(lapa(tmp_path), split="val")
    assert (len(found), found.classes) == (3, LAPA)
    assert found.pictures[0]().shape == (60, 50, 3)
    assert int(found.masks[0]().max()) == 10
    x1, y1, x2, y2 = found.boxes[0]
    np.testing.assert_allclose([x1, x2, y2], [12, 40, 45], atol=1e-3)
    assert y1 == pytest.approx(18 - 0.17 * (45 - 18), abs=1e-3)
    np.testing.assert_allclose(box_of_106(points106()[None])[0], found.boxes[0], atol=0.02)
    assert len(found.first(2)) == 2
    (tmp_path / "val" / "landmarks" / "val_1.txt").write_text("68\n1 2\n")
    with pytest.raises(TableError, match="points of LaPa"):
        parsed(tmp_path, split="val")
    with pytest.raises(OptionError, match="unknown split"):
        parsed(tmp_path, split="all")


def test_a_table_of_masks_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.ones((8, 9), np.uint8)).save(tmp_path / "m.png")
    (tmp_path / "classes.csv").write_text("index,name\n0,background\n1,hair\n")
    (tmp_path / "masks.csv").write_text("file,mask,x1,y1,x2,y2,split\na.png,m.png,1,2,5,6,train\n")
    found = parsed(tmp_path)
    assert (len(found), found.classes) == (1, ("background", "hair"))
    assert found.masks[0]().tolist() == np.ones((8, 9)).tolist()
    with pytest.raises(TableError, match="0 rows of test"):
        parsed(tmp_path, split="test")
    (tmp_path / "classes.csv").write_text("index,name\n0,background\n1,wings\n")
    with pytest.raises(TableError, match="not of parts"):
        parsed(tmp_path)
    with pytest.raises(TableError, match="no masks"):
        parsed(tmp_path / "nowhere")


def test_rendered_scenes_are_read_in_the_same_way() -> None:
    found = rendered(4, seed=0, size=64)
    assert found.classes == PARSING
    assert found.pictures[3]().shape == (64, 64, 3)
    assert found.masks[3]().shape == (64, 64)
