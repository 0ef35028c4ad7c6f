"""Face sets of a few drawn pictures in the layout of the real ones: the readers and recipes cannot tell them apart.

Loaded by path from the conftest files of this folder and of ``tests/train``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mien.geometry.mean_shape import MEAN70

VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ATTRIBUTES = ("5_o_Clock_Shadow", "Male", "Smiling")


def face_points(side: int) -> NDArray[np.float32]:
    """(70, 3) points of a frontal face that fills a picture of `side` px, as it does in the sets."""
    return (np.asarray(MEAN70) * side * 0.35 + np.array([side / 2, side * 0.45, 0])).astype(np.float32)


def draw_face(side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(side, side, 3) uint8 RGB: skin, eyes, nose and mouth on something."""
    image = np.full((side, side, 3), rng.integers(0, 256, 3), np.uint8)
    points = face_points(side)[:, :2]
    skin = tuple(int(v) for v in rng.integers(90, 220, 3))
    cv2.fillPoly(image, [np.round(np.concatenate([points[:17], points[26:16:-1] - (0, side * 0.1)])).astype(int)], skin)
    for eye in (points[36:42], points[42:48]):
        cv2.fillPoly(image, [np.round(eye).astype(int)], (240, 240, 240))
        cv2.circle(image, tuple(np.round(eye.mean(0)).astype(int).tolist()), max(1, side // 40), (20, 20, 40), -1)
    cv2.polylines(image, [np.round(points[27:31]).astype(int)], False, (60, 40, 40), 1)
    cv2.fillPoly(image, [np.round(points[48:60]).astype(int)], (170, 50, 60))
    return image


def store(file: Path, image: NDArray[np.uint8], quality: int = 92) -> None:
    """Writes a picture (RGB or grey) as JPEG or PNG, by the name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    ordered = image[..., ::-1] if image.ndim == 3 else image
    coded = cv2.imencode(file.suffix, np.ascontiguousarray(ordered), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    file.write_bytes(coded.tobytes())


def table(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV table."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])


def _pictures(root: Path, names: Iterable[str], side: int, seed: int = 0) -> list[str]:
    listed = list(names)
    for row, name in enumerate(listed):
        store(root / "images" / name, draw_face(side, np.random.default_rng((seed, row))))
    return listed


def fairface_faces(root: Path, count: int = 20) -> None:
    """Two of the chips have no points; the archives list the files in another order than the table."""
    names = _pictures(root, (f"{k + 1}.jpg" for k in range(count)), 128)
    rng = np.random.default_rng(0)
    groups = ("East Asian", "Black", "White")
    rows = [
        [n, ("20-29", "50-59")[k % 2], ("Male", "Female")[k % 2], groups[k % 3], int(k > 1)]
        for k, n in enumerate(names)
    ]
    table(root / "images.csv", ("file", "age", "gender", "race", "points"), rows)
    embeddings = (rng.normal(0, 0.05, (count, 128)) + 0.11).astype(np.float16)
    points = (face_points(128) + rng.normal(0, 1, (count, 70, 3))).astype(np.float16)
    points[:2] = np.nan
    order = rng.permutation(count)
    files = np.array(names)[order]
    np.savez(root / "embeddings.npz", files=files, embedding=embeddings[order])
    np.savez(root / "points.npz", files=files, xyz=points[order])


def fairface_val(root: Path) -> None:
    names = _pictures(root, (f"val/{k}.jpg" for k in range(4)), 32)
    rows = [[name, "val", "20-29", ("Male", "Female")[k % 2], "Indian"] for k, name in enumerate(names)]
    table(root / "images.csv", ("file", "split", "age", "gender", "race"), rows)


def lfw(root: Path) -> None:
    names = _pictures(root, (f"{who}_000{k}.jpg" for who in ("Ann_Ash", "Bo_Birch", "Cy_Cedar") for k in (1, 2)), 48)
    rows = [[name, name[:-9], "female" if k < 2 else "", "neutral"] for k, name in enumerate(names)]
    table(root / "images.csv", ("file", "identity", "gender", "expression_student_label"), rows)
    pairs = ((1, 1, 0, 1), (1, 0, 0, 2), (2, 1, 4, 5), (2, 0, 3, 5))
    rows = [[fold, same, names[a], names[b]] for fold, same, a, b in pairs]
    table(root / "pairs.csv", ("fold", "same", "a", "b"), rows)


def cfp(root: Path) -> None:
    names = _pictures(root, (f"{p:03d}/{kind}_01.jpg" for p in (1, 2) for kind in ("frontal", "profile")), 40)
    header = ["file", "identity", "name", "pose", "name_in_lfw", *(f"{axis}{k}" for k in range(30) for axis in "xy")]
    rows = [[n, n[:3], "Somebody", n[4:11], 0, *(0.5 * v + row for v in range(60))] for row, n in enumerate(names)]
    table(root / "images.csv", header, rows)
    table(root / "pairs_FF.csv", ("fold", "same", "a", "b"), [[1, 0, names[0], names[2]]])
    fp = [[1, 1, names[0], names[1]], [1, 0, names[0], names[3]]]
    table(root / "pairs_FP.csv", ("fold", "same", "a", "b"), fp)


def landmarks68(root: Path) -> None:
    """Eight people of two pictures each."""
    people = [f"Person_{letter}" for letter in "ABCDEFGH"]
    names = _pictures(root, (f"training/{who}_{k}.jpg" for who in people for k in range(2)), 112)
    header = ["file", "split", "identity", "name_in_lfw", *(f"{axis}{k}" for k in range(68) for axis in "xy")]
    points = face_points(112)[:68, :2]
    rows = [[n, "training", people[k // 2], 1, *(points + k).ravel().round(1).tolist()] for k, n in enumerate(names)]
    table(root / "images.csv", header, rows)


def detection(root: Path, count: int = 12) -> None:
    """Scenes with none to three faces; the boxes are listed in another order than the pictures."""
    rng = np.random.default_rng(1)
    rows, boxes = [], []
    for k in range(count):
        width, height = (int(v) for v in rng.integers(180, 320, 2))
        image = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
        for place in range(k % 4):
            side = int(rng.integers(24, 56))
            x, y = 60 * place, int(rng.integers(0, height - side))
            image[y : y + side, x : x + side] = draw_face(side, rng)
            label = ("with_mask", "without_mask")[place % 2]
            boxes.append([f"scene{k}.jpg", float(x), float(y), float(x + side), float(y + side), label])
        store(root / "images" / f"scene{k}.jpg", image)
        rows.append([f"scene{k}.jpg", width, height, k % 4])
    table(root / "images.csv", ("file", "width", "height", "faces"), rows)
    table(root / "boxes.csv", ("file", "xmin", "ymin", "xmax", "ymax", "label"), boxes[::-1])


def no_faces(root: Path) -> None:
    names = [f"{k}.jpg" for k in range(3)]
    for k, name in enumerate(names):
        store(root / "images" / name, np.full((60, 80, 3), 40 * k, np.uint8))
    table(root / "images.csv", ("file",), [[name] for name in names])


def celeba10k(root: Path) -> None:
    """Eight people of three pictures each, 89 x 109 px."""
    names = [f"{k:06d}.jpg" for k in range(24)]
    for k, name in enumerate(names):
        store(root / "images" / name, cv2.resize(draw_face(109, np.random.default_rng(k)), (89, 109)))
    rows = [[name, 100 + k // 3, k % 2, 1, 0] for k, name in enumerate(names)]
    table(root / "images.csv", ("file", "identity", *ATTRIBUTES), rows)


def celeb24(root: Path) -> None:
    names = _pictures(root, (f"{who}/00{k}.jpg" for who in ("Dee_Dale", "Ed_Elm") for k in (1, 2)), 32)
    table(root / "images.csv", ("file", "identity"), [[n, n.split("/")[0].replace("_", " ")] for n in names])


def ferplus(root: Path) -> None:
    names = _pictures(root, ("train/0.jpg", "train/1.jpg", "valid/2.jpg"), 48)
    rows = [[n, n.split("/")[0], *np.roll([7, 2, 1] + [0] * 7, k).tolist()] for k, n in enumerate(names)]
    table(root / "images.csv", ("file", "split", *VOTES), rows)


def fasseg(root: Path) -> None:
    names = _pictures(root, ("frontal_1.jpg", "multipose_2.jpg"), 40)
    for k, name in enumerate(names):
        store(root / "masks" / name.replace("jpg", "png"), np.full((40, 40), k + 1, np.uint8))
    rows = [[n, n.replace("jpg", "png"), n.split("_")[0], "train", (0, -45)[k], ""] for k, n in enumerate(names)]
    table(root / "images.csv", ("file", "mask", "part", "split", "pan_degrees", "person"), rows)
    parts = ("background", "skin", "hair", "nose", "eyes", "mouth")
    table(root / "classes.csv", ("index", "name"), list(enumerate(parts)))


def nuaa(root: Path) -> None:
    names = _pictures(root, ("train/live/a.jpg", "train/printed/b.jpg", "test/live/c.jpg"), 32)
    rows = [[n, *n.split("/")[:2], "0001", "01", 207] for n in names]
    table(root / "images.csv", ("file", "split", "label", "subject", "session", "source_crop_px"), rows)


def real_fake(root: Path) -> None:
    names = _pictures(root, ("real/1.jpg", "fake/1.jpg"), 64)
    table(root / "images.csv", ("file", "label", "original_px"), [[n, n.split("/")[0], 1024] for n in names])


def thermal(root: Path) -> None:
    names = _pictures(root, ("gallery/S01.jpg", "probe/S01.jpg"), 32)
    table(root / "images.csv", ("file", "subject", "part"), [[n, "S01", n.split("/")[0]] for n in names])


def cifar10_test(root: Path, count: int = 12) -> None:
    names = [f"{k:05d}.jpg" for k in range(count)]
    rng = np.random.default_rng(2)
    for name in names:
        store(root / "images" / name, rng.integers(0, 256, (32, 32, 3), np.uint8))
    rows = [[n, k, k % 10, CLASSES[k % 10], *np.roll([50] + [0] * 9, k).tolist()] for k, n in enumerate(names)]
    table(root / "images.csv", ("file", "test_index", "label", "class", *(f"human_{c}" for c in CLASSES)), rows)


WRITERS: dict[str, Callable[..., None]] = {
    writer.__name__: writer
    for writer in (
        celeb24, celeba10k, cfp, cifar10_test, detection, fairface_faces, fairface_val, fasseg, ferplus,
        landmarks68, lfw, no_faces, nuaa, real_fake, thermal,
    )
}  # fmt: skip


class MadeUp:
    """Folders of made-up sets, written once a session: ``made_up("lfw")``; or anew, where a test spoils them."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, name: str) -> Path:
        root = self.home / name
        if not root.exists():
            WRITERS[name](root)
        return root

    def anew(self, name: str, home: Path) -> Path:
        """The set written into `home`, for this test alone."""
        WRITERS[name](home / name)
        return home / name


def real_set(name: str) -> Path:
    """Folder of a real set; skips the test where it is absent."""
    home = os.environ.get("MIEN_DATA")
    if not home:
        pytest.skip("the real face sets are not here: MIEN_DATA is not set")
    root = Path(home).expanduser() / name
    if not root.is_dir():
        pytest.skip(f"the set {name} is not unpacked in MIEN_DATA")
    return root
