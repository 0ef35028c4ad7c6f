"""Sets of drawn pictures in the exact layouts of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mien.data.formats import find
from mien.errors import MienError


def jpeg(seed: int, side: int = 24, width: int | None = None, ending: str = ".jpg") -> bytes:
    """A small picture file that differs from those of other seeds."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 4, 3), np.uint8)
    image = cv2.resize(small, (width or side, side), interpolation=cv2.INTER_LINEAR)
    return bytes(cv2.imencode(ending, image)[1].tobytes())


class Told:
    """Collects what readers tell."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, MienError]] = []

    def __call__(self, kind: str, where: str, error: MienError) -> None:
        self.all.append((kind, where, error))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.all]


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def folder(root: Path, people: int = 3, each: int = 4, side: int = 24) -> Path:
    """A folder a person."""
    for person in range(people):
        for k in range(each):
            write(root / f"person_{person:02d}" / f"{k}.jpg", jpeg(100 * person + k, side))
    return root


def lfw(root: Path, *, folds: int = 10, each: int = 3) -> Path:
    """LFW: two pictures of each of some people, pairs.txt of `folds` x (`each` + `each`)."""
    people = [f"Person_{letter}" for letter in "ABCDEFGHIJ"][: max(each + 1, 4)]
    for row, name in enumerate(people):
        for k in range(1, folds + 2):
            write(root / "lfw" / name / f"{name}_{k:04d}.jpg", jpeg(50 * row + k))
    lines = [f"{folds}\t{each}"]
    for fold in range(folds):
        lines += [f"{people[k]}\t{fold + 1}\t{fold + 2}" for k in range(each)]
        lines += [f"{people[k]}\t{fold + 1}\t{people[k + 1]}\t{fold + 1}" for k in range(each)]
    write(root / "pairs.txt", "\n".join(lines) + "\n")
    return root


def cfp(root: Path, people: int = 3) -> Path:
    """CFP: 10 frontal and 4 profile pictures a person, two splits, fiducials."""
    lists: dict[str, list[str]] = {"F": [], "P": []}
    for person in range(1, people + 1):
        for letter, pose, count in (("F", "frontal", 10), ("P", "profile", 4)):
            for k in range(1, count + 1):
                name = f"Data/Images/{person:03d}/{pose}/{k:02d}.jpg"
                write(root / name, jpeg(1000 * person + 20 * k + (pose == "profile")))
                points = "\n".join(f"{i + k}.5,{2 * i + person}" for i in range(30))
                write(root / f"Data/Fiducials/{person:03d}/{pose}/{k:02d}.txt", points)
                lists[letter].append(f"{len(lists[letter]) + 1} ../{name}")
    for letter, lines in lists.items():
        write(root / "Protocol" / f"Pair_list_{letter}.txt", "\n".join(lines) + "\n")
    for split in ("01", "02"):
        write(root / f"Protocol/Split/FF/{split}/same.txt", "1,2\n11,12\n")
        write(root / f"Protocol/Split/FF/{split}/diff.txt", "1,11\n2,21\n")
        write(root / f"Protocol/Split/FP/{split}/same.txt", "1,1\n11,5\n")
        write(root / f"Protocol/Split/FP/{split}/diff.txt", "1,5\n11,1\n")
    write(root / "Data/list_name.txt", "Ann One\nBob Two\nCy Three\n")
    return root


def ijb(root: Path, name: str = "ijbc", pictures: int = 12) -> Path:
    """IJB: two pictures a template, two templates a medium."""
    members, points = [], []
    for k in range(1, pictures + 1):
        write(root / "loose_crop" / f"{k}.jpg", jpeg(k))
        members.append(f"{k}.jpg {(k - 1) // 2 + 1} {(k - 1) // 4 + 100}")
        points.append(f"{k}.jpg " + " ".join(f"{v + k / 4:.3f}" for v in range(10)) + f" {0.5 + k / 100:.4f}")
    write(root / f"meta/{name}_face_tid_mid.txt", "\n".join(members) + "\n")
    write(root / f"meta/{name}_name_5pts_score.txt", "\n".join(points) + "\n")
    write(root / f"meta/{name}_template_pair_label.txt", "1 2 1\n1 3 0\n4 5 0\n")
    gallery = "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID\n1,7,img/1.jpg,1\n1,7,img/2.jpg,2\n3,8,img/5.jpg,3\n"
    write(root / f"meta/{name}_1N_gallery_G1.csv", gallery)
    write(root / f"meta/{name}_1N_probe_mixed.csv", "TEMPLATE_ID,SUBJECT_ID,FILENAME\n2,7,img/3.jpg\n4,8,img/7.jpg\n")
    return root


ATTRIBUTES = ("5_o_Clock_Shadow", "Male", "Smiling")


def celeba(root: Path, count: int = 6, *, wild: bool = False) -> Path:
    """CelebA with three attributes in the folders Anno, Eval and Img."""
    names = [f"{k + 1:06d}.jpg" for k in range(count)]
    pictures = root / "Img" / ("img_celeba" if wild else "img_align_celeba")
    for k, name in enumerate(names):
        write(pictures / name, jpeg(k))
    rows = [f"{name} {' '.join(str(1 if (k + a) % 2 else -1) for a in range(3))}" for k, name in enumerate(names)]
    write(root / "Anno/list_attr_celeba.txt", "\n".join([str(count), " ".join(ATTRIBUTES), *rows]) + "\n")
    write(root / "Anno/identity_CelebA.txt", "\n".join(f"{n} {10 + k // 2}" for k, n in enumerate(names)) + "\n")
    write(root / "Eval/list_eval_partition.txt", "\n".join(f"{n} {k % 3}" for k, n in enumerate(names)) + "\n")
    parts = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
    titles = " ".join(f"{part}_{axis}" for part in parts for axis in "xy")
    rows = [f"{n} " + " ".join(str(10 * k + v) for v in range(10)) for k, n in enumerate(names)]
    align = "list_landmarks_celeba.txt" if wild else "list_landmarks_align_celeba.txt"
    write(root / "Anno" / align, "\n".join([str(count), titles, *rows]) + "\n")
    rows = [f"{n}    {k}  {k + 1}  20  30" for k, n in enumerate(names)]
    write(root / "Anno/list_bbox_celeba.txt", "\n".join([str(count), "image_id x_1 y_1 width height", *rows]) + "\n")
    return root


def pts(points: NDArray[np.float64]) -> str:
    lines = "\n".join(f"{x:.6f} {y:.6f}" for x, y in points.tolist())
    return f"version: 1\nn_points:  {len(points)}\n{{\n{lines}\n}}\n"


def w300(root: Path, count: int = 4) -> Path:
    """300W: pictures (JPEG and PNG) with .pts beside them."""
    for k in range(count):
        ending = ".jpg" if k % 2 else ".png"
        home = root / ("afw", "helen")[k % 2]
        write(home / f"image_{k}{ending}", jpeg(k, ending=ending))
        write(home / f"image_{k}.pts", pts(np.arange(136, dtype=float).reshape(68, 2) + 1 + k))
    return root


def wflw(root: Path) -> Path:
    """WFLW: three faces in two pictures, in the training list; one in the test list."""
    lists = {"train": ["0--Parade/a.jpg", "0--Parade/a.jpg", "1--Hand/b.jpg"], "test": ["1--Hand/c.jpg"]}
    for part, names in lists.items():
        lines = []
        for k, name in enumerate(names):
            write(root / "WFLW_images" / name, jpeg(len(name) + ord(name[-5])))
            numbers = [f"{v + k}.25" for v in range(196)] + [str(v + k) for v in (3, 4, 50, 60)]
            lines.append(" ".join([*numbers, "1", "0", "0", "1", "0", str(k), name]))
        home = root / "WFLW_annotations/list_98pt_rect_attr_train_test"
        write(home / f"list_98pt_rect_attr_{part}.txt", "\n".join(lines) + "\n")
    return root


def wider(root: Path) -> Path:
    """WIDER FACE: three pictures with two, no and one face; a test list of names."""
    names = ["0--Parade/0_Parade_1.jpg", "0--Parade/0_Parade_2.jpg", "1--Handshaking/1_Hand_3.jpg"]
    for k, name in enumerate(names):
        write(root / "WIDER_train/images" / name, jpeg(k))
        write(root / "WIDER_test/images" / name, jpeg(k))
    text = (
        f"{names[0]}\n2\n1 2 30 40 0 1 0 0 2 1 \n5 6 7 8 2 0 1 1 0 0 \n"
        f"{names[1]}\n0\n0 0 0 0 0 0 0 0 0 0 \n"
        f"{names[2]}\n1\n9 9 10 10 0 0 0 0 0 0 \n"
    )
    write(root / "wider_face_split/wider_face_train_bbx_gt.txt", text)
    write(root / "wider_face_split/wider_face_test_filelist.txt", "\n".join(names) + "\n")
    return root


class Made:
    """The makers above, for tests: ``made.lfw(tmp_path)``."""

    jpeg, write, folder, lfw, cfp, ijb, celeba, pts, w300, wflw, wider = (
        staticmethod(function) for function in (jpeg, write, folder, lfw, cfp, ijb, celeba, pts, w300, wflw, wider)
    )
    Told, ATTRIBUTES = Told, ATTRIBUTES

    @staticmethod
    def kinds(path: Path) -> list[str]:
        return [kind for kind, _ in find(path)]


@pytest.fixture(scope="session")
def made() -> Any:
    return Made


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """Replaces text in a file, which must be there."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), "utf-8")

    return replace
