"""Measure how real the rendered heads are to networks that were trained on photographs only.

    python scripts/heads_realism.py                     # every figure, and the pictures of docs/heads.md
    python scripts/heads_realism.py --count 64          # a trial
    python scripts/heads_realism.py --only pictures     # the contact sheets alone

==============  ======================================================================================================
part            measures
==============  ======================================================================================================
``detection``   share of heads that the bundled detector finds: nothing occludes, yaw -45 to 45 degrees, everything
                else drawn as `sample` draws it
``identity``    area under the ROC of same and different pairs by the bundled embedder, four pictures a person over
                pose, light, expression, make-up, glasses and background
``speed``       pictures a second at 112 px by one thread of one process, and by two such processes
``pictures``    writes docs/img/heads.jpg, heads_controls.jpg and heads_truth.jpg
==============  ======================================================================================================

No weight was trained on rendered heads, and nothing of the renderer is fitted to the weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import mien
from mien.data.heads import EXPRESSIONS, PARTS, HeadParameters, Heads, render, sample

IMAGES = Path(__file__).parents[1] / "docs" / "img"
SEED = 20261124
SIZE = 192

Picture = NDArray[np.uint8]


def _drawn(count: int, *, per_identity: int, yaw: float) -> HeadParameters:
    """Heads that nothing occludes, within a yaw."""
    rng = np.random.default_rng(SEED)
    pose = np.stack([rng.uniform(-yaw, yaw, count), rng.normal(0, 7, count), rng.normal(0, 5, count)], -1)
    return sample(count, seed=SEED, per_identity=per_identity, occluder="none", pose=pose)


def detection(count: int) -> None:
    """Share of heads found, and by group."""
    parameters = _drawn(count, per_identity=1, yaw=45)
    heads = render(parameters, size=SIZE, what=("image", "landmarks"))
    faces = mien.detect(list(heads.image))
    low, high = heads.landmarks_2d.min(1), heads.landmarks_2d.max(1)
    found = np.zeros(count, bool)
    for box, row in zip(faces.boxes, faces.image, strict=True):
        # A box of IoU 0.3 with the landmarks' own: they leave the forehead out, which boxes may have.
        wide = np.minimum(box[2:], high[row]) - np.maximum(box[:2], low[row])
        both = float(np.prod(np.clip(wide, 0, None)))
        union = float(np.prod(box[2:] - box[:2]) + np.prod(high[row] - low[row])) - both
        found[row] |= both / union > 0.3
    print(f"found: {found.mean():.2%} of {count} ({int((~found).sum())} missed), {SIZE} px, yaw -45 to 45")
    for name, group in {
        "ITA below -20": parameters.skin_ita < -20,
        "ITA -20 to 20": np.abs(parameters.skin_ita) <= 20,
        "ITA above 20": parameters.skin_ita > 20,
        "yaw beyond 30": np.abs(parameters.pose[:, 0]) > 30,
        "glasses": parameters.glasses > 0,
        "hat": parameters.hat > 0,
    }.items():
        if group.any():
            print(f"  {name}: {found[group].mean():.2%} of {int(group.sum())}")
    print(f"other boxes: {len(faces) - int(found.sum())} in {count} pictures")


def identity(count: int) -> None:
    """Area under the ROC."""
    parameters = _drawn(count, per_identity=4, yaw=45)
    heads = render(parameters, size=SIZE, what=("image",))
    faces = mien.embed(list(heads.image))
    best: dict[int, int] = {}
    for row in np.argsort(-faces.scores, kind="stable"):
        best.setdefault(int(faces.image[row]), int(row))
    rows = np.array(sorted(best))
    embeddings = faces.embeddings[[best[row] for row in rows]]
    first, second = np.triu_indices(len(rows), 1)
    scores = (embeddings @ embeddings.T)[first, second]
    people = parameters.identity[rows]
    same = people[first] == people[second]
    print(
        f"AUC: {auc(scores, same):.4f}, {same.sum():,} same and {(~same).sum():,} different pairs, "
        f"{len(set(people))} people"
    )
    print(f"  mean similarity {scores[same].mean():.3f} of same, {scores[~same].mean():.3f} of different pairs")
    close = (parameters.masculine[rows][first] > 0) == (parameters.masculine[rows][second] > 0)
    close &= np.abs(parameters.skin_ita[rows][first] - parameters.skin_ita[rows][second]) < 20
    print(f"  AUC against people of like skin and shape only: {auc(scores[same | close], same[same | close]):.4f}")


def auc(scores: NDArray[Any], same: NDArray[np.bool_]) -> float:
    """Chance that a same pair scores above a different one (ties count half)."""
    from scipy.stats import rankdata

    ranks, positive = rankdata(scores), int(same.sum())
    return float((ranks[same].sum() - positive * (positive + 1) / 2) / (positive * (len(scores) - positive)))


def _one(count: int) -> tuple[float, float]:
    """Wall and CPU seconds of `count` pictures by one thread."""
    import torch

    torch.set_num_threads(1)
    parameters = sample(count, seed=SEED)
    render(parameters[:32], what=("image",))
    wall, cpu = time.perf_counter(), time.process_time()
    render(parameters, what=("image",))
    return time.perf_counter() - wall, time.process_time() - cpu


def speed(count: int) -> None:
    """Pictures a second at 112 px."""
    wall, cpu = _one(count)
    print(f"one thread: {count / wall:.0f} pictures/s by the clock, {count / cpu:.0f} a second of processor time")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        times = list(pool.map(_one, [count, count]))
    rates = sum(count / wall for wall, _ in times), sum(count / cpu for _, cpu in times)
    print(f"two processes: {rates[0]:.0f} pictures/s by the clock, {rates[1]:.0f} if each had a core to itself")


# ------------------------------------------------------------------------------------------------- pictures


def sheet(pictures: list[Picture] | Picture, columns: int) -> Picture:
    """Pictures of one size in rows of `columns`."""
    rows = [np.concatenate(list(pictures[k : k + columns]), 1) for k in range(0, len(pictures), columns)]
    return np.concatenate(rows, 0)


def save(picture: Picture, name: str) -> None:
    """Into docs/img, with a comment."""
    from PIL import Image

    IMAGES.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(
        IMAGES / name, "JPEG", quality=88, comment=b"Rendered by mien.data.heads: pictures of nobody"
    )
    print(f"wrote docs/img/{name}")


ROWS: list[tuple[str, list[dict[str, ArrayLike]]]] = [
    ("identity", [{"identity": k} for k in range(8)]),
    ("skin_ita", [{"skin_ita": value} for value in (60, 43, 26, 9, -9, -26, -43, -60)]),
    (
        "hair_style",
        [{"hair_style": name} for name in ("bald", "buzz", "short", "quiff", "curly", "bun", "bob", "wavy")],
    ),
    (
        "hair_dark, hair_red, grey",
        [
            {"hair_dark": d, "hair_red": r, "grey": g}
            for d, r, g in (
                (1, 0, 0),
                (0.8, 0.3, 0),
                (0.6, 0.5, 0),
                (0.4, 0.2, 0),
                (0.15, 0.1, 0),
                (0.35, 1, 0),
                (0.8, 0.2, 0.5),
                (0.8, 0.2, 1),
            )
        ],
    ),
    (
        "beard_style",
        [
            {"beard_style": name, "beard_density": d}
            for name, d in (
                ("none", 1),
                ("stubble", 0.6),
                ("stubble", 1),
                ("moustache", 0.9),
                ("goatee", 0.9),
                ("full", 0.5),
                ("full", 0.8),
                ("full", 1),
            )
        ],
    ),
    ("expression", [{"expression": name} for name in EXPRESSIONS] + [{"valence": 0.5, "arousal": -0.4}]),
    (
        "gaze",
        [{"gaze": value} for value in ((-25, 0), (-12, 0), (0, 0), (12, 0), (25, 0), (0, 15), (0, -15), (20, 12))],
    ),
    (
        "pose",
        [
            {"pose": value}
            for value in (
                (-90, 0, 0),
                (-60, 0, 0),
                (-30, 0, 0),
                (0, 0, 0),
                (45, 0, 0),
                (75, 0, 0),
                (0, 25, 0),
                (0, -25, 15),
            )
        ],
    ),
    (
        "key_direction, key_share",
        [
            {"key_direction": d, "key_share": s}
            for d, s in (
                ((0, 30), 0.0),
                ((-80, 20), 0.7),
                ((-40, 30), 0.7),
                ((0, 30), 0.7),
                ((40, 30), 0.7),
                ((80, 20), 0.7),
                ((0, 75), 0.8),
                ((0, -25), 0.8),
            )
        ],
    ),
    (
        "wrinkles, grey, sagging",
        [
            {"wrinkles": w, "grey": g, "sagging": s}
            for w, g, s in (
                (0, 0, 0),
                (0.5, 0, 0),
                (1, 0, 0),
                (0, 0.5, 0),
                (0, 1, 0),
                (0, 0, 0.5),
                (0, 0, 1),
                (1, 1, 1),
            )
        ],
    ),
    (
        "make-up",
        [
            {"lipstick": a, "lipstick_hue": b, "eyeshadow": c, "eyeshadow_hue": d, "eyeliner": e, "blush": f}
            for a, b, c, d, e, f in (
                (0, 0, 0, 0, 0, 0),
                (0.9, 0, 0, 0, 0, 0),
                (0.9, 0.33, 0, 0, 0, 0),
                (0.9, 1, 0, 0, 0, 0),
                (0, 0, 0.9, 0.33, 0, 0),
                (0, 0, 0.9, 0.66, 1, 0),
                (0, 0, 0, 0, 0, 0.9),
                (0.9, 0.4, 0.8, 0.1, 1, 0.6),
            )
        ],
    ),
    (
        "glasses, hat, earrings",
        [
            {"glasses": 1},
            {"glasses": 2},
            {"glasses": 3},
            {"glasses": 4},
            {"hat": 1},
            {"hat": 2},
            {"earrings": 1, "necklace": 1},
            {"freckles": 1},
        ],
    ),
    (
        "occluder",
        [
            {"occluder": "hand", "occluder_at": (3, 1)},
            {"occluder": "hand", "occluder_at": (-3, 4)},
            {"occluder": "hand", "occluder_at": (0, -3)},
            {"occluder": "mask"},
            {"occluder": "mask", "occluder_colour": (0.1, 0.1, 0.12)},
            {"occluder": "mask", "pose": (40, 0, 0)},
            {"occluder": "sunglasses"},
            {"occluder": "sunglasses", "pose": (40, 0, 0)},
        ],
    ),
    (
        "distance, face_share, scene",
        [
            {"distance": 30},
            {"distance": 60},
            {"distance": 300},
            {"face_share": 0.3},
            {"face_share": 0.75},
            {"scene": "room"},
            {"scene": "city"},
            {"scene": "bokeh", "camera_noise": 12},
        ],
    ),
]


def controls() -> None:
    """One control a row on one head, everything else at rest."""
    people = sample(8, seed=4)
    plain: dict[str, ArrayLike] = {
        "expression": "neutral",
        "occluder": "none",
        "glasses": 0,
        "hat": 0,
        "earrings": 0,
        "necklace": 0,
        "lipstick": 0.0,
        "eyeshadow": 0.0,
        "eyeliner": 0.0,
        "blush": 0.0,
        "pose": (0, 0, 0),
        "gaze": (0, 0),
        "key_direction": (-30, 35),
        "key_share": 0.5,
        "exposure": 0.0,
        "distance": 110,
        "face_share": 0.5,
        "shift": (0, 0),
        "scene": "gradient",
        "scene_colour": (0.5, 0.52, 0.55),
        "scene_light": 0.5,
        "camera_noise": 1.0,
        "key_warmth": 0.1,
        "ambient_warmth": 0.0,
        "torso": 0.5,
        "valence": 0.0,
        "arousal": 0.0,
    }
    head = sample(1, seed=12, **plain).with_(
        skin_ita=32,
        hair_style="short",
        hair_dark=0.75,
        hair_red=0.2,
        grey=0.0,
        wrinkles=0.15,
        sagging=0.1,
        beard_style="none",
        freckles=0.0,
        hair_fringe=0.0,
        hair_recede=0.0,
        brow_density=0.8,
    )
    rows = []
    for name, cells in ROWS:
        if name == "identity":
            rows.append(sample(8, seed=4, **plain).with_(shape=people.shape, seed=people.seed))
            continue
        made = []
        for cell in cells:
            if {"expression", "valence"} & set(cell):
                units = sample(
                    1, seed=12, **{**{k: v for k, v in plain.items() if k not in ("valence", "arousal")}, **cell}
                ).units
                cell = {**cell, "units": units}
            if name in ("make-up", "glasses, hat, earrings"):
                cell = {"hair_style": "bun", "masculine": -1.0, **cell}
            made.append(head.with_(**cell))
        rows.append(HeadParameters.concat(made))
    save(sheet(list(render(HeadParameters.concat(rows), size=144).image), 8), "heads_controls.jpg")


def truth() -> None:
    """What comes with a picture."""
    parameters = sample(5, seed=21, occluder=[0, 0, 2, 0, 3], hat=[0, 0, 0, 2, 0]).with_(
        pose=[[5, 0, 0], [35, 5, 0], [-25, 0, 0], [-70, 0, 0], [0, -15, 10]],
        hair_style=["short", "long", "curly", "bun", "bob"],
        distance=110,
    )
    heads = render(parameters, size=176, what=("image", "landmarks", "parsing", "depth", "normals", "uv", "thermal"))
    rows = [
        list(heads.image),
        list(_dotted(heads)),
        list(_painted(heads.parsing)),
        list(_depth(heads)),
        list(_normals(heads)),
        list(_uv(heads)),
    ]
    rows.append([np.repeat(grey[..., None], 3, -1) for grey in heads.thermal])
    save(sheet([picture for column in zip(*rows, strict=True) for picture in column], len(rows)), "heads_truth.jpg")


def _dotted(heads: Heads) -> Picture:
    made = heads.image.copy() // 2 + 40
    for row, (points, seen) in enumerate(zip(heads.landmarks_2d, heads.visible, strict=True)):
        for (x, y), clear in zip(np.rint(points).astype(int), seen, strict=True):
            if 1 <= x < made.shape[2] - 1 and 1 <= y < made.shape[1] - 1:
                made[row, y - 1 : y + 1, x - 1 : x + 1] = (60, 255, 120) if clear else (255, 70, 70)
    return made


def _painted(classes: NDArray[np.uint8]) -> Picture:
    colours = np.random.default_rng(3).integers(60, 255, (256, 3)).astype(np.uint8)
    colours[0] = 20
    return colours[classes]


def _depth(heads: Heads) -> Picture:
    near = np.clip((heads.parameters.distance[:, None, None] + 18 - heads.depth) / 30, 0, 1)
    return np.repeat((255 * near).astype(np.uint8)[..., None], 3, -1)


def _normals(heads: Heads) -> Picture:
    shown: Picture = (127.5 + 127.5 * heads.normals * np.array([1, -1, -1])).astype(np.uint8)
    return shown


def _uv(heads: Heads) -> Picture:
    u, v = np.nan_to_num(heads.uv[..., 0], nan=-2), np.nan_to_num(heads.uv[..., 1], nan=-2)
    board = ((np.floor(u * 24) + np.floor(v * 40)) % 2).astype(np.float32)
    shown = np.stack([127 + 127 * np.clip(u, -1, 1), 255 * np.clip(v, 0, 1), 200 * board], -1)
    shown[u < -1] = 20
    return shown.astype(np.uint8)


def pictures(count: int) -> None:
    """The contact sheets of the documentation."""
    del count
    save(sheet(list(render(sample(40, seed=5), size=160).image), 8), "heads.jpg")
    controls()
    truth()


MEASURES: dict[str, Callable[[int], None]] = {
    "detection": detection,
    "identity": identity,
    "speed": speed,
    "pictures": pictures,
}


def main() -> None:
    """Runs the parts asked for."""
    parser = argparse.ArgumentParser(
        description="Measure how real rendered heads are to networks trained on photographs."
    )
    parser.add_argument("--count", type=int, default=480, help="pictures of each measurement")
    parser.add_argument("--only", nargs="*", choices=sorted(MEASURES), help="parts; default: all")
    given = parser.parse_args()
    print(f"{date.today()}, mien {mien.__version__}, Python {sys.version.split()[0]}, {len(PARTS)} meshes, seed {SEED}")
    for name, measure in MEASURES.items():
        if given.only is None or name in given.only:
            measure(given.count)


if __name__ == "__main__":
    main()
