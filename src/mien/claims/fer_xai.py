"""Does the audit find what a classifier looks at, does its normalisation matter, and do networks fall into two groups?

Data: rendered heads, six expressions, almost frontal, of as many people. None is in both training and test.

Planted causes. What a network of expressions looks at is not known, so here the cause is made: of each picture one of
six regions of the face (eyes, cheeks, mouth, chin) is tinted in the region's colour, and the class is which. The face
is moved by up to 15 % and turned by up to 15 degrees, and what it expresses has nothing to do with the class. A network
of four convolutions learns the class; its global maps must fit the regions. Three controls: the same audit of the same
network with its first random numbers, and after the same training with shuffled labels (of both the planted classes
are explained, since their own predictions mean nothing); and the five other regions. For the claim about
normalisation, the same local maps are averaged with one warp for all, that of the mean landmarks.

In a first trial, before any row, the colour of a tint was drawn at random, whatever the region. From 600 heads the
network told 26 % of the classes, so that there was no cause to be found; since then each region has its own colour.

Two groups. Three architectures learn the six expressions of upright faces, once from random numbers and once from a
training on another task (what the head looks like, hair to glasses), with the same number of steps in all. The metric
is the correlation of global maps, the mean over the expressions: of pairs of one group (baseline: of pairs across the
two).

Sizes: 1,000 heads to learn from and 160 to explain at 64 px; LIME with 30 segments, 200 samples (groups: 120) and 12
pictures a class (groups: 6), where the paper has 1,000 and 100. Thirty pictures a class and two seeds a cell of the
groups would be better; the time for all claims together forbade that, and three seeds are run anyway. ``scale="paper"``
has planted heads at 224 px for a ResNet-50 with the paper's LIME; and for the groups the twelve networks by their own
recipe on a folder ``expressions`` with one sub-folder an expression, trunks of ImageNet in ``imagenet`` beside it.

Margins, written down before any run. Planted regions: 0.2, since the gate is a mean IoU of 0.35, and independent masks
of a quarter of the canvas meet at 0.14. Regions told apart: half of the six more than the control, since five must fit
and one fits by chance. Normalisation: 0.05, the least drop that counts. Groups: 0, as the statement is one of sign.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.claims._small import FourConvolutions, fit_in_memory
from mien.claims.harness import Claim, Measured, Setting
from mien.data.pixels import Picture
from mien.errors import OptionError
from mien.nn.blocks import ResidualTrunk
from mien.nn.expression import CLASSIFIERS, EKMAN, PRETRAINED, Prepared, resnet50

if TYPE_CHECKING:
    from mien.papers.fer_xai import GlobalMap

Labels = NDArray[np.int64]
Floats = NDArray[np.float32]

REGIONS: Mapping[str, str] = {
    "left eye": "18 19 20 21 22 28 29 2", "right eye": "27 26 25 24 23 28 29 16", "left cheek": "2 3 4 5 49 32 30 29",
    "right cheek": "16 15 14 13 55 36 30 29", "mouth": "49 33 34 35 55 56 57 58 59 60",
    "chin": "6 7 8 9 10 11 12 56 57 58 59 60",
}  # fmt: skip
"""Corners of the planted regions, landmarks counted from 1."""
COLOURS: tuple[tuple[int, int, int], ...] = (
    (230, 40, 40),
    (40, 200, 60),
    (50, 80, 240),
    (240, 220, 40),
    (200, 50, 220),
    (40, 220, 220),
)
"""Tint of each region."""
TINT = 0.6
SHIFT, ROLL = 0.15, 15.0
"""Most that a face is moved, as a share of the picture's side, and turned, degrees."""
FEWEST_TRAINED = 0.95
"""Accuracy below which a network has not learnt what was planted; it is told in the details."""


@dataclass(frozen=True)
class Numbers:
    """Sizes of the experiment with planted causes."""

    side: int
    train: int
    test: int
    epochs: int
    samples: int
    pictures: int


SIZES: dict[str, Numbers] = {
    "small": Numbers(side=64, train=1000, test=160, epochs=10, samples=200, pictures=12),
    "paper": Numbers(side=224, train=6000, test=1200, epochs=10, samples=1000, pictures=100),
}
BATCH, RATE = 48, 2e-3
GROUP_EPOCHS = (4, 4)
"""Of the other task, and of expressions; a network from random numbers has both for expressions."""
GROUP_SAMPLES, GROUP_PICTURES = 120, 6
ARCHITECTURES: Mapping[str, Callable[[int], nn.Module]] = {
    "plain": lambda dim: FourConvolutions(dim=dim, width=0.5),
    "residual": lambda dim: nn.Sequential(
        ResidualTrunk((16, 32, 64), (1, 1, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, dim)
    ),
    "bottleneck": lambda dim: resnet50(width=0.25, depths=(1, 1, 1, 1), classes=dim),
}  # fmt: skip
INPUT = Prepared(64, (127.5,) * 3, (128.0,) * 3)
"""What `fit_in_memory` feeds."""


# ------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Drawn:
    """Heads (n, s, s, 3) with landmarks (n, 68, 2), expressions (n,) as numbers of `EKMAN`, attributes (n, k)."""

    images: Picture
    points: Floats
    expressions: Labels
    attributes: Floats

    def __getitem__(self, rows: slice) -> Drawn:
        return Drawn(self.images[rows], self.points[rows], self.expressions[rows], self.attributes[rows])


@functools.lru_cache(maxsize=1)
def drawn(count: int, side: int, seed: int) -> Drawn:
    """Heads, each of another person."""
    from mien.data import heads

    known = np.array([heads.EXPRESSIONS.index(name) for name in EKMAN])
    images, points, looks = [], [], []
    for start in range(0, count, 256):
        rows = np.arange(start, min(start + 256, count))
        some = heads.sample(
            len(rows), seed=seed, start=start, occluder="none", hat=0, expression=known[rows % len(EKMAN)]
        )
        some = some.with_(pose=np.clip(some.pose, -10, 10))
        made = heads.render(some, size=side, what=("image", "landmarks"))
        images.append(made.image)
        points.append(made.landmarks_2d)
        looks.append(made.attributes)
    attributes = np.concatenate(looks).astype(np.float32)
    told = (attributes.mean(0) > 0.05) & (attributes.mean(0) < 0.95)
    return Drawn(
        np.concatenate(images), np.concatenate(points).astype(np.float32), np.arange(count, dtype=np.int64) %
        len(EKMAN), attributes[:, told],
    )  # fmt: skip


def warped(images: Picture, points: Floats, matrices: NDArray[Any]) -> tuple[Picture, Floats]:
    """Pictures and their landmarks after maps (n, 2, 3)."""
    side = images.shape[1]
    moved = [
        cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
        for image, matrix in zip(images, np.asarray(matrices, np.float64), strict=True)
    ]
    there = np.einsum("nij,nkj->nki", matrices[:, :, :2], points) + matrices[:, None, :, 2]
    return np.stack(moved).astype(np.uint8), there.astype(np.float32)


def planted(data: Drawn, seed: int) -> tuple[Picture, Floats, Labels]:
    """Pictures with one tinted region, moved and turned, their landmarks, and which region it is."""
    rng = np.random.default_rng([seed, 41])
    side = data.images.shape[1]
    labels = rng.permutation(np.arange(len(data.images)) % len(REGIONS)).astype(np.int64)
    middle = (side - 1) / 2
    matrices = np.stack(
        [
            cv2.getRotationMatrix2D((middle, middle), float(angle), 1.0)
            for angle in rng.uniform(-ROLL, ROLL, len(labels))
        ]
    )
    matrices[:, :, 2] += rng.uniform(-SHIFT, SHIFT, (len(labels), 2)) * side
    images = data.images.copy()
    corners = [np.array([int(name) - 1 for name in text.split()]) for text in REGIONS.values()]
    for row, label in enumerate(labels):
        mask = np.zeros((side, side), np.float32)
        cv2.fillPoly(mask, [np.rint(data.points[row, corners[label]] * 16).astype(np.int32)], 1.0, shift=4)
        mask = cv2.GaussianBlur(mask, (0, 0), side / 64)[..., None] * TINT
        colour = np.array(COLOURS[label], np.float32)
        images[row] = np.rint(images[row] * (1 - mask) + colour * mask).astype(np.uint8)
    moved, points = warped(images, data.points, matrices)
    return moved, points, labels


def upright(data: Drawn) -> tuple[Picture, Floats]:
    """Faces cut as `mien.train.recipes.expression` has them, and their landmarks."""
    from mien.geometry.landmarks import five_from_68
    from mien.geometry.similarity import similarity_from_points, template

    target = template("arcface112", size=data.images.shape[1])
    return warped(data.images, data.points, similarity_from_points(five_from_68(data.points), target))


@functools.lru_cache(maxsize=1)
def region_masks() -> Mapping[str, NDArray[np.bool_]]:
    """The planted regions on the canvas."""
    from mien.papers.fer_xai import painted

    return {name: painted([text]) for name, text in REGIONS.items()}


# ------------------------------------------------------------------------------------------- planted causes


def _fitted(
    setting: Setting, network: nn.Module, crops: Picture, labels: NDArray[Any], *, epochs: int, what: str,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy, flip: bool = False,
) -> nn.Module:  # fmt: skip
    """Trains a network; labels are rows' numbers where `loss` wants more than a class."""
    steps = max(1, epochs * len(crops) // BATCH)
    network = network.to(setting.device).train()
    fit_in_memory(
        crops, labels, lambda images, own: loss(network(images), own), network.parameters(),
        steps=steps if setting.steps is None else setting.steps, batch=BATCH, lr=RATE, seed=setting.seed,
        optimiser="adamw", weight_decay=0.05, clip=5.0, flip=flip, device=setting.device, told=setting.told, what=what,
    )  # fmt: skip
    return network.eval()


def _network(setting: Setting) -> nn.Module:
    torch.manual_seed(setting.seed)
    return resnet50(classes=len(REGIONS)) if setting.scale == "paper" else ARCHITECTURES["plain"](len(REGIONS))


_found: dict[tuple[object, ...], dict[str, float]] = {}
"""What a seed's trainings gave: claims of one experiment look at the same networks."""


def regions(setting: Setting) -> dict[str, float]:
    """IoU with the own region, and regions that fit their map best, of trained and of control networks."""
    key = ("regions", *setting.key)
    if key not in _found:
        _found[key] = _regions(setting)
    return _found[key]


def _regions(setting: Setting) -> dict[str, float]:
    maps, accuracy = region_maps(setting)
    found = {"accuracy": accuracy, "learnt": float(accuracy >= FEWEST_TRAINED)}
    for name, heats in maps.items():
        found |= _judged({region: one.heat for region, one in heats.items()}, name)
    return found


def region_maps(setting: Setting) -> tuple[dict[str, dict[str, GlobalMap]], float]:
    """Global maps of each region, of the networks "untrained", "shuffled" and "trained", and of the last "without
    warp"; and the share of the pictures that the trained one gets right."""
    from mien.papers.fer_xai import Lime, global_maps, of_network, probabilities

    numbers = SIZES[setting.scale]
    setting.told(0, None, "heads")
    data = drawn(numbers.train + numbers.test, numbers.side, setting.seed)
    learnt, _, labels = planted(data[: numbers.train], setting.seed)
    seen, points, truth = planted(data[numbers.train :], setting.seed + 1000)
    shuffled = np.random.default_rng([setting.seed, 43]).permutation(labels)
    networks = {
        "untrained": _network(setting).to(setting.device).eval(),
        "shuffled": _fitted(setting, _network(setting), learnt, shuffled, epochs=numbers.epochs, what="shuffled"),
        "trained": _fitted(setting, _network(setting), learnt, labels, epochs=numbers.epochs, what="trained"),
    }
    prepared = Prepared(numbers.side, INPUT.mean, INPUT.std)
    maps: dict[str, dict[str, GlobalMap]] = {}
    accuracy = 0.0
    for name, network in networks.items():
        model = of_network(network, name=name, prepared=prepared, device=setting.device, classes=tuple(REGIONS))
        predicted = truth
        if name == "trained":
            predicted = probabilities(model, seen).argmax(1)
            accuracy = float((predicted == truth).mean())

        def told(done: int, total: int, what: str = name) -> None:
            setting.told(done, total, f"maps, {what}")

        for kind in (name, "without warp") if name == "trained" else (name,):
            maps[kind] = global_maps(
                model, seen, points, expressions=tuple(REGIONS), most=numbers.pictures,
                lime=Lime(samples=numbers.samples), seed=setting.seed, aligned=kind == name, predicted=predicted,
                told=told,
            )  # fmt: skip
    return maps, accuracy


def _judged(heats: Mapping[str, Floats], name: str) -> dict[str, float]:
    from mien.papers.fer_xai import against

    masks = region_masks()
    each = {region: against(heats[region], masks, region) for region in masks}
    return {
        f"iou, {name}": float(np.mean([one.iou for one in each.values()])),
        f"wrong iou, {name}": float(np.mean([one.wrong_iou for one in each.values()])),
        f"auc, {name}": float(np.mean([one.auc for one in each.values()])),
        f"fitting, {name}": float(np.mean([one.rank == 1 and one.iou > one.wrong_iou for one in each.values()])),
    }


def finds(setting: Setting) -> Measured:
    """IoU with the planted region: the better of the two controls against the trained network."""
    found = regions(setting)
    return Measured(
        baseline=max(found["iou, untrained"], found["iou, shuffled"]), idea=found["iou, trained"], details=found
    )


def tells_apart(setting: Setting) -> Measured:
    """Share of the regions that no other region beats in IoU with their map."""
    found = regions(setting)
    baseline = max(found["fitting, untrained"], found["fitting, shuffled"])
    return Measured(baseline=baseline, idea=found["fitting, trained"], details=found)


def normalised(setting: Setting) -> Measured:
    """IoU with the planted region: maps of one warp for all against maps warped by their own landmarks."""
    found = regions(setting)
    return Measured(baseline=found["iou, without warp"], idea=found["iou, trained"], details=found)


# ------------------------------------------------------------------------------------------- two groups


def groups(setting: Setting) -> Measured:
    """Correlation of global maps: of pairs across the groups against pairs within one."""
    key = ("groups", *setting.key)
    if key not in _found:
        _found[key] = _paper_groups(setting) if setting.scale == "paper" else _small_groups(setting)
    found = _found[key]
    return Measured(baseline=found["across"], idea=found["within"], details=found)


def _small_groups(setting: Setting) -> dict[str, float]:
    from mien.papers.fer_xai import Lime, global_maps, of_network, probabilities

    numbers = SIZES["small"]
    setting.told(0, None, "heads")
    data = drawn(numbers.train + numbers.test, numbers.side, setting.seed)
    crops, points = upright(data)
    learnt, seen, places = crops[: numbers.train], crops[numbers.train :], points[numbers.train :]
    labels, truth = data.expressions[: numbers.train], data.expressions[numbers.train :]
    looks = torch.from_numpy(data.attributes).to(setting.device)
    rows = np.arange(numbers.train, dtype=np.int64)

    def looking(answers: Tensor, own: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(answers, looks[own])

    maps: list[dict[str, Floats]] = []
    names: list[str] = []
    found: dict[str, float] = {}
    for kind in ("pretrained", "scratch"):
        for name, build in ARCHITECTURES.items():
            torch.manual_seed(setting.seed)
            network = build(len(EKMAN))
            epochs = sum(GROUP_EPOCHS)
            if kind == "pretrained":
                first = build(looks.shape[1])
                _fitted(setting, first, learnt, rows, epochs=GROUP_EPOCHS[0], what=name, loss=looking, flip=True)
                state = {k: v for k, v in first.state_dict().items() if v.shape == network.state_dict()[k].shape}
                network.load_state_dict(state, strict=False)
                epochs = GROUP_EPOCHS[1]
            _fitted(setting, network, learnt, labels, epochs=epochs, what=f"{name}, {kind}", flip=True)
            model = of_network(network, name=name, prepared=INPUT, device=setting.device)
            predicted = probabilities(model, seen).argmax(1)
            found[f"accuracy, {name}, {kind}"] = float((predicted == truth).mean())
            some = global_maps(
                model, seen, places, most=GROUP_PICTURES, lime=Lime(samples=GROUP_SAMPLES), seed=setting.seed,
                predicted=predicted,
            )  # fmt: skip
            maps.append({expression: one.heat for expression, one in some.items()})
            names.append(kind)
    return found | _grouped(maps, names)


def _grouped(maps: Sequence[Mapping[str, Floats]], names: Sequence[str]) -> dict[str, float]:
    """Mean correlations within and across the groups, and of each group, over the expressions."""
    from mien.papers.fer_xai import correlations, within_and_across

    rows = {expression: correlations([one[expression] for one in maps]) for expression in EKMAN}
    each = {expression: within_and_across(r, names) for expression, r in rows.items()}
    found = {
        "within": float(np.mean([w for w, _ in each.values()])),
        "across": float(np.mean([a for _, a in each.values()])),
    }
    for expression, (within, across) in each.items():
        found[f"gap, {expression}"] = within - across
    for group in dict.fromkeys(names):
        own = [i for i, name in enumerate(names) if name == group]
        if len(own) > 1:
            pairs = [(i, j) for i in own for j in own if j < i]
            found[f"within, {group}"] = float(np.mean([r[i, j] for r in rows.values() for i, j in pairs]))
    return found


PAPER_NETWORKS: tuple[str, ...] = tuple(CLASSIFIERS)
PAPER_NUMBERS: dict[str, Any] = {}
"""Options of all runs at the paper's scale besides those of its recipe."""
PAPER_LIME: dict[str, Any] = {}
PAPER_PICTURES = 100


def landmarks_of(crops: Picture, *, device: str) -> Floats:
    """(n, 68, 2) landmarks in upright faces (n, S, S, 3), by the bundled network."""
    from mien import weights

    declared = weights.info("mien-landmarks")
    network: Any = weights.load("mien-landmarks", device=device)
    size = declared.input.size or 112
    factor = crops.shape[1] / size
    small = np.stack([cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA) for crop in crops]).astype(np.uint8)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(small), 64):
            raw = network(declared.input.tensor(small[start : start + 64], device=device)).float().cpu().numpy()
            parts.append(raw.reshape(len(raw), -1, 3)[:, :68, :2])
    return np.asarray((np.concatenate(parts) + 0.5) * factor - 0.5, np.float32)


def _trunk(root: Path, network: str) -> Path:
    for suffix in (".h5", ".safetensors"):
        if (file := root / "imagenet" / f"{network}{suffix}").is_file():
            return file
    raise OptionError(
        "the paper's networks start from trunks of ImageNet", got=f"no {network}.h5 in {root / 'imagenet'}",
        expected="Keras's file of weights without a top, of each of " + ", ".join(PRETRAINED),
    )  # fmt: skip


def _paper_groups(setting: Setting) -> dict[str, float]:
    """The twelve networks by their recipe, one fold kept out and explained."""
    from mien.papers.fer_xai import Lime, global_maps, of_network, probabilities
    from mien.train.loop import fit
    from mien.train.recipes.expression import RUNS, ExpressionRecipe, Faces

    if setting.folder is None or setting.data_root is None:
        raise OptionError(
            "the paper's scale needs faces of expressions, and trunks of ImageNet beside them", got="no folder",
            expected="expressions/anger … surprise, imagenet/vgg16.h5 …", hint="give their folder with --data-root",
        )  # fmt: skip
    maps: list[dict[str, Floats]] = []
    names: list[str] = []
    found: dict[str, float] = {}
    for name in PAPER_NETWORKS:
        preset, numbers = RUNS[name]
        options: dict[str, Any] = {
            **numbers, **PAPER_NUMBERS, "network": name, "data": str(setting.folder), "seed": setting.seed,
            "out": str(setting.out / name), "device": setting.device, "tensorboard": "no",
        }  # fmt: skip
        if name in PRETRAINED:
            options["trunk"] = str(_trunk(setting.data_root, name))
        if setting.steps is not None:
            options |= {"steps": setting.steps, "epochs": 0}
        recipe = ExpressionRecipe.make(preset=preset, **options)

        def told(done: Any, name: str = name) -> None:
            setting.told(done.step, done.steps, f"{name}, loss {done.loss:.3f}")

        result = fit(recipe, progress=told)
        network = recipe.build()
        from mien.train import checkpoint

        checkpoint.fill(network, result.weights)
        held = recipe.part(held=True)
        faces = Faces(held, recipe.size, augment=False)
        crops = np.stack([faces.crop(row) for row in range(len(held))])
        prepared = Prepared(recipe.size, recipe.prepared.mean, recipe.prepared.std, recipe.prepared.colour)
        model = of_network(network, name=name, prepared=prepared, device=setting.device)
        predicted = probabilities(model, crops).argmax(1)
        found[f"accuracy, {name}"] = float((predicted == held.labels).mean())
        some = global_maps(
            model, crops, landmarks_of(crops, device=setting.device), most=PAPER_PICTURES, lime=Lime(**PAPER_LIME),
            seed=setting.seed, predicted=predicted,
        )  # fmt: skip
        maps.append({expression: one.heat for expression, one in some.items()})
        names.append("pretrained" if name in PRETRAINED else "scratch")
    return found | _grouped(maps, names)


ON: tuple[str, ...] = ("heads",)
OWN = "mean IoU with the planted region"

CLAIMS = (
    Claim(
        slug="fer_xai", name="finds-what-was-planted", metric=OWN, better="higher", margin=0.2,
        says="The global maps of a network whose classes differ in one region of the face each fit these regions "
        "better than those of networks that learnt nothing.",
        data=ON, run=finds,
    ),
    Claim(
        slug="fer_xai", name="tells-regions-apart", metric="share of regions that fit their map best",
        better="higher", margin=0.5,
        says="The map of a class fits its own region better than any other one, which those of networks that learnt "
        "nothing do by chance only.",
        data=ON, run=tells_apart,
    ),
    Claim(
        slug="fer_xai", name="normalisation-matters", metric=OWN, better="higher", margin=0.05,
        says="Of faces that are moved and turned, maps that are warped by landmarks fit the regions better than maps "
        "that are averaged as they are.",
        data=ON, run=normalised,
    ),
    Claim(
        slug="fer_xai", name="two-groups", metric="correlation of global maps", better="higher", margin=0.0,
        says="Global maps agree more between networks that were pre-trained, or between networks that were not, than "
        "between one and the other.",
        data=ON, paper_data=("expressions",), run=groups,
    ),
)  # fmt: skip
