"""Joint training of many tasks on one crop, on sets that have labels for some of them only (FaceXFormer's training).

    mien train face_tasks --preset paper parsing=CelebAMask-HQ points=300W poses=300W_LP attributes=CelebA \
        ages=UTKFace visibility=COFW out=runs/facexformer
    mien train face_tasks --preset small out=runs/small

Each folder is one of a public set in its own format; what is not given is not trained on. Rendered heads (`heads`),
which are drawn at the start, know everything but age, gender and race.

Every batch has an equal share of each group of tasks, so that small sets are seen more often than large ones; age,
gender and race are one group. With ``labels=task``, as in the paper, a picture counts for the tasks that it was drawn
for; with ``labels=all``, for all that is known of it. The losses are those of `mien.train.tasks`.

A crop is a square of 1.5 times the longer side of the face's box, or the whole picture where a set is cut already; it
is turned, moved, scaled and mirrored, with its labels, then blurred, made grey, given another gamma, and covered.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, as_picture
from mien.errors import OptionError
from mien.geometry.landmarks import FLIP68
from mien.nn.facex import MASKS, OUTPUTS, PARSING, FaceXFormer, pixels
from mien.train.draws import Draws, Source
from mien.train.loop import Recipe
from mien.train.task_sets import READERS, Heads, Item, Part
from mien.train.tasks import (
    AGE_CENTRES,
    ATTRIBUTES,
    CLASSES,
    COFW29,
    COFW_FLIP,
    EXPRESSION,
    EXPRESSIONS7,
    MIRRORED,
    UNKNOWN,
    degrees_of,
    task_losses,
)

Floats = NDArray[np.float32]

GROUPS: Mapping[str, tuple[str, ...]] = {
    "parsing": ("parsing",), "landmarks": ("landmarks",), "pose": ("pose",), "attributes": ("attributes",),
    "age": ("age", "gender", "race"), "visibility": ("visibility",), EXPRESSION: (EXPRESSION,),
}  # fmt: skip
"""Groups that share a batch evenly, and their tasks."""
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""Of ImageNet, 0 to 255."""
MARGIN = 1.5
"""Side of the crop in units of the box's longer side."""
_MIRROR = np.arange(256, dtype=np.uint8)
_MIRROR[: len(MIRRORED)] = MIRRORED


# ------------------------------------------------------------------------------------------- crops with their labels


def crop_map(item: Item, size: int, rng: np.random.Generator | None, strength: float) -> Floats:
    """(2, 3) map of a picture to its crop; with a generator, turned, scaled, moved and perhaps mirrored.

    At strength 1: 15 degrees, 10 % and 4 % of the side.
    """
    height, width = item.picture.shape[:2]
    x0, y0, x1, y1 = (0.0, 0.0, float(width), float(height)) if item.box is None else (float(v) for v in item.box)
    side = max(x1 - x0, y1 - y0, 1.0) * (1.0 if item.box is None else MARGIN)
    centre, angle, mirrored = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), 0.0, False
    if rng is not None:
        side *= math.exp(rng.normal(0, 0.1 * strength))
        centre = centre + rng.normal(0, 0.04 * strength, 2) * side
        angle, mirrored = rng.normal(0, math.radians(15) * strength), rng.random() < 0.5
    scale = size / side
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if mirrored:
        turn[0] *= -1
    # Box edges lie between pixels; warps count from pixel centres.
    shift = size / 2 - 0.5 - turn @ (centre - 0.5)
    return np.concatenate([turn, shift[:, None]], 1).astype(np.float32)


def photometric(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Blur, grey, gamma, and a covered patch, each with a chance times `strength`."""
    if rng.random() < 0.2 * strength:
        picture = as_picture(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.5) * picture.shape[0] / 112))
    if rng.random() < 0.1 * strength:
        picture = np.repeat(as_picture(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))[..., None], 3, axis=2)
    if rng.random() < 0.5 * strength:
        levels = 255 * (np.arange(256) / 255) ** math.exp(rng.normal(0, 0.3))
        picture = as_picture(cv2.LUT(picture, np.clip(np.rint(levels), 0, 255).astype(np.uint8)))
    if rng.random() < 0.2 * strength:
        side = picture.shape[0]
        height, width = (int(v) for v in rng.integers(side // 10, side // 3, 2))
        top, left = int(rng.integers(0, side - height)), int(rng.integers(0, side - width))
        picture = picture.copy()
        picture[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return picture


def labelled_crop(
    item: Item, matrix: Floats, size: int, tasks: Sequence[str], border: int = cv2.BORDER_CONSTANT
) -> dict[str, Any]:
    """`image` (S, S, 3) uint8 and the labels of `mien.train.tasks`, those of `tasks` known and all others unknown.

    Labels move with the picture: points that leave the crop lie outside of -1 to 1, a mirrored face has its left on
    the left, and a turned one has turned.
    """
    crop = cv2.warpAffine(item.picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    mirrored = bool(np.linalg.det(matrix[:, :2]) < 0)
    labels: dict[str, Any] = {
        "image": as_picture(crop), "parsing": np.full((size, size), UNKNOWN, np.uint8),
        "landmarks": np.full(136, np.nan, np.float32), "pose": np.full((3, 3), np.nan, np.float32),
        "attributes": np.full(len(ATTRIBUTES), np.nan, np.float32),
        "visibility": np.full(len(COFW29), np.nan, np.float32), "age": np.float32(math.nan),
        "gender": -1, "race": -1, EXPRESSION: -1,
    }  # fmt: skip
    if item.mask is not None and "parsing" in tasks:
        mask = cv2.warpAffine(
            item.mask, matrix, (size, size), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT,
            borderValue=UNKNOWN,
        )  # fmt: skip
        labels["parsing"] = _MIRROR[mask] if mirrored else np.asarray(mask, np.uint8)
    if item.points is not None and "landmarks" in tasks:
        points = item.points @ matrix[:, :2].T + matrix[:, 2]
        labels["landmarks"] = ((2 * (points[FLIP68] if mirrored else points) + 1) / size - 1).astype(np.float32).ravel()
    if item.rotation is not None and "pose" in tasks:
        rotation = item.rotation
        if mirrored:  # mirror the face where it stands, then turn the picture
            rotation = rotation * np.array([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]], np.float32)
        turn = matrix[:, :2] * np.array([-1 if mirrored else 1, 1], np.float32)
        turn = turn / np.sqrt(abs(np.linalg.det(turn)))
        whole = np.eye(3, dtype=np.float32)
        whole[:2, :2] = turn
        labels["pose"] = (whole @ rotation).astype(np.float32)
    if item.attributes is not None and "attributes" in tasks:
        labels["attributes"] = item.attributes
    if item.visible is not None and "visibility" in tasks:
        labels["visibility"] = item.visible[list(COFW_FLIP)] if mirrored else item.visible
    if "age" in tasks:
        labels |= {"age": np.float32(item.age), "gender": item.gender, "race": item.race}
    if EXPRESSION in tasks:
        labels[EXPRESSION] = item.expression
    return labels


class Joint(Source):
    """Pictures of all parts, one group of tasks after the other: a picture that serves several is there for each.

    Parameters
    ----------
    parts
        With the rows of each that are drawn.
    groups
        Of `GROUPS`, those that are trained.
    size
        Side of the crops.
    strength
        Of the changes, 0 to 1.
    everything
        Whether a picture counts for all that is known of it.
    """

    def __init__(
        self, parts: Sequence[tuple[Part, NDArray[np.int64]]], groups: Sequence[str], *, size: int, strength: float,
        everything: bool,
    ) -> None:  # fmt: skip
        self.parts, self.groups, self.size, self.strength = list(parts), tuple(groups), size, strength
        self.everything = everything
        self.blocks = [
            [(number, rows) for number, (part, rows) in enumerate(self.parts) if group in part.tasks and len(rows)]
            for group in self.groups
        ]
        self.counts = [sum(len(rows) for _, rows in block) for block in self.blocks]
        if empty := [group for group, count in zip(self.groups, self.counts, strict=True) if not count]:
            raise OptionError(
                "nothing has labels for a task", got=empty, hint="give its set, or leave it out of tasks="
            )
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def place(self, index: int) -> tuple[int, Part, int]:
        """Number of the group, part, and row of a sample."""
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        within = index - int(self.starts[group])
        for number, rows in self.blocks[group]:
            if within < len(rows):
                return group, self.parts[number][0], int(rows[within])
            within -= len(rows)
        raise IndexError(index)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        group, part, row = self.place(index)
        item = part.item(row)
        matrix = crop_map(item, self.size, rng, self.strength)
        border = (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE)[int(rng.integers(2))]
        tasks = part.tasks if self.everything else (self.groups[group],)
        found = labelled_crop(item, matrix, self.size, tasks, border)
        found["image"] = photometric(found["image"], rng, self.strength)
        return found


class EqualDraws(Draws):
    """`Joint` with an equal share of each group in every batch; the pictures of each come in epochs of their own.

    Place ``k`` of a batch belongs to process ``k % processes``. Each process goes round the groups, on from where the
    former batch ended, so that shares are equal in the end also where the batch cannot be dealt out evenly.
    """

    def __init__(self, source: Joint, *, batch_size: int, processes: int, seed: int) -> None:
        super().__init__(source, seed=seed)
        self.joint, self.batch_size, self.processes = source, batch_size, processes
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def index(self, position: int) -> int:
        step, place = divmod(position, self.batch_size)
        slot, process = divmod(place, self.processes)
        turn, group = divmod(step * (self.batch_size // self.processes) + slot, len(self.joint.groups))
        epoch, within = divmod(turn * self.processes + process, self.joint.counts[group])
        known = self._orders.get(group)
        if known is None or known[0] != epoch:
            order = np.random.default_rng((self.seed, 5, group, epoch)).permutation(self.joint.counts[group])
            known = self._orders[group] = (epoch, order)
        return int(self.joint.starts[group] + known[1][within])


# ------------------------------------------------------------------------------------------- the recipe


@dataclass(kw_only=True)
class FaceTasksRecipe(Recipe):
    """Trains FaceXFormer, or one of its kind, on what sets are given; see the module.

    Folders: `parsing` (CelebAMask-HQ), `points` (300W), `poses` (300W-LP), `attributes` (CelebA), `ages` (UTKFace or
    FairFace), `visibility` (a table), `expressions` (FER+, the paper's second version). `heads` rendered heads join
    them, `checked` others are measured on. `held` is the share of each set's pictures (of CelebA's people) that is only
    measured on.

    `tasks` names the groups of `GROUPS` that are trained and answered; by default all that something has labels for,
    expression only where it is named or `expressions` is given. `widths` and `depths` are those of the encoder "conv";
    `encoder` is a file of torchvision's classifier of the same backbone, which the training starts from. `weight_…` are
    the factors of the losses. ``two_way=no`` and ``scales=1`` are what the paper compares with.
    """

    parsing: str | None = None
    points: str | None = None
    poses: str | None = None
    attributes: str | None = None
    ages: str | None = None
    visibility: str | None = None
    expressions: str | None = None
    heads: int = 0
    checked: int = 128
    held: float = 0.05
    tasks: tuple[str, ...] = ()
    labels: Literal["task", "all"] = "task"
    strength: float = 1.0
    backbone: str = "swin_b"
    widths: tuple[int, ...] = (32, 64, 128, 256)
    depths: tuple[int, ...] = (1, 1, 1, 1)
    encoder: str | None = None
    size: int = 224
    dim: int = 256
    attention: int = 8
    hidden: int = 2048
    depth: int = 2
    scales: int = 4
    two_way: bool = True
    weight_parsing: float = 1.0
    weight_landmarks: float = 1.0
    weight_pose: float = 1.0
    weight_attributes: float = 1.0
    weight_visibility: float = 1.0
    weight_age: float = 1.0
    weight_gender: float = 1.0
    weight_race: float = 1.0
    weight_expression: float = 1.0

    PLACES: ClassVar[frozenset[str]] = Recipe.PLACES | set(READERS) | {"encoder"}
    FREE: ClassVar[frozenset[str]] = Recipe.FREE | {"checked"}
    SCHEDULES: ClassVar[tuple[str, ...]] = (*Recipe.SCHEDULES, "steps")
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # 12 epochs, a tenth of the rate from the 6th on and a hundredth from the 10th, 48 pictures on each of 8 GPUs.
        # An epoch is taken to be CelebA's training part, the largest set's: 6 x 162,770 pictures at equal shares.
        "paper": {
            "batch_size": 384, "steps": 30_516, "lr": 1e-4, "weight_decay": 1e-5, "beta2": 0.999, "schedule": "steps",
            "warmup": 0, "clip": 0.0, "ema": 0.0, "half": False, "workers": 8, "precision": "bf16-mixed",
        },
        # Minutes on a processor, rendered heads alone.
        "small": {
            "backbone": "conv", "size": 64, "dim": 64, "attention": 4, "hidden": 256, "widths": (16, 32, 64, 128),
            "heads": 2000, "labels": "all", "batch_size": 48, "steps": 800, "lr": 2e-3, "warmup": 50, "ema": 0.98,
            "strength": 0.5,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.tasks if name not in GROUPS]:
            raise OptionError.unknown("unknown task", unknown[0], GROUPS)
        right = 0 <= self.held < 1 and self.heads >= 0 and self.checked >= 1 and 0 <= self.strength <= 2
        weights = [getattr(self, name) for name in _WEIGHTS]
        if not right or not all(0 <= weight < math.inf for weight in weights):
            raise OptionError(
                "a number is out of its range",
                got=f"held {self.held}, heads {self.heads}, checked {self.checked}, strength {self.strength}, "
                f"weights {weights}",
                expected="held of 0 to below 1, numbers from 0, checked from 1, strength of 0 to 2",
            )  # fmt: skip

    def pace(self, step: int) -> float:
        """With the schedule "steps": 1, a tenth after 6 twelfths of the run, a hundredth after 10."""
        if self.schedule != "steps":
            return super().pace(step)
        share = step / self.steps
        return (1.0 if share < 6 / 12 else 0.1 if share < 10 / 12 else 0.01) * min(
            1.0, (step + 1) / max(1, self.warmup)
        )

    # ------------------------------------------------------------------------------------------- network

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of tasks that are trained; all of the paper's where nothing is given."""
        if self.tasks:
            return tuple(name for name in GROUPS if name in self.tasks)
        known = {name for option, reader in READERS.items() if getattr(self, option) for name in reader.tasks}
        if self.heads:
            known |= set(Heads.tasks) - {EXPRESSION}
        return tuple(name for name in GROUPS if name in known) or tuple(name for name in GROUPS if name != EXPRESSION)

    def arguments(self) -> dict[str, Any]:
        """Those of `FaceXFormer` for this run."""
        trained = {task for group in self.groups for task in GROUPS[group]}
        outputs = {name: count for name, count in OUTPUTS.items() if name in trained}
        if EXPRESSION in trained:
            outputs[EXPRESSION] = len(EXPRESSIONS7)
        options = {"widths": self.widths, "depths": self.depths} if self.backbone == "conv" else {}
        return {
            "backbone": self.backbone, "options": options, "size": self.size, "dim": self.dim, "heads": self.attention,
            "hidden": self.hidden, "depth": self.depth, "outputs": outputs,
            "masks": MASKS if PARSING in trained else 0, "scales": self.scales, "two_way": self.two_way,
        }  # fmt: skip

    def build(self) -> nn.Module:
        return FaceXFormer(**self.arguments())

    def begin(self, module: nn.Module) -> None:
        if self.encoder is not None and self.init is None:
            assert isinstance(module, FaceXFormer)
            fill_encoder(module.encoder, Path(self.encoder))

    def input_shape(self) -> tuple[int, ...]:
        return (1, 3, self.size, self.size)

    # ------------------------------------------------------------------------------------------- data

    @cached_property
    def _parts(self) -> list[Part]:
        """The sets that were given and have labels for what is trained."""
        found: list[Part] = []
        for option, reader in READERS.items():
            if (folder := getattr(self, option)) is not None and set(reader.tasks) & set(self.groups):
                found.append(reader(Path(folder)))
        return found

    def _drawn(self, count: int, what: bytes) -> Heads:
        # Heads fill their pictures more than the crop's margin wants: they are drawn a quarter larger than needed.
        return Heads(count, seed=zlib.crc32(what), size=self.size * 5 // 4)

    def _rows(self, part: Part, *, held: bool) -> NDArray[np.int64]:
        from mien.data.sets import held_out

        return np.flatnonzero(held_out(part.names, self.held) == held)

    def source(self) -> Source:
        parts: list[tuple[Part, NDArray[np.int64]]] = [(part, self._rows(part, held=False)) for part in self._parts]
        if self.heads:
            parts.append((self._drawn(self.heads, b"face_tasks"), np.arange(self.heads, dtype=np.int64)))
        return Joint(parts, self.groups, size=self.size, strength=self.strength, everything=self.labels == "all")

    def draws(self, source: Source) -> Draws:
        assert isinstance(source, Joint)
        return EqualDraws(source, batch_size=self.batch_size, processes=self.processes, seed=self.seed)

    # ------------------------------------------------------------------------------------------- loss and figures

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        weights = {name.removeprefix("weight_"): getattr(self, name) for name in _WEIGHTS}
        parts = task_losses(module(normalised(batch["image"])), batch, weights)
        return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Figures of each task on what is held out of its sets and, where heads are trained on, on other heads."""
        parts: list[tuple[Part, NDArray[np.int64]]] = [(part, self._rows(part, held=True)) for part in self._parts]
        if self.heads:
            parts.append((self._drawn(self.checked, b"face_tasks, held out"), np.arange(self.checked, dtype=np.int64)))
        return measured(network, parts, size=self.size)


_WEIGHTS = tuple(f"weight_{task}" for tasks in GROUPS.values() for task in tasks)


def normalised(images: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) by ImageNet's mean and deviation."""
    mean, std = (torch.tensor(values, device=images.device) for values in (MEAN, STD))
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def fill_encoder(module: nn.Module, path: Path) -> None:
    """Puts the features of a classifier of torchvision's into an encoder; its last normalisation and head are left out.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its features are not those of the encoder.
    """
    from safetensors.torch import load_file

    from mien.errors import CheckpointError

    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # SafetensorError, UnpicklingError, OSError …
        raise CheckpointError(f"cannot read the encoder {path}", got=error, expected="a state dict") from error
    own = module.state_dict()
    given = {k: v for k, v in found.items() if not k.startswith(("norm.", "head."))}
    wrong = sorted(
        k for k in own.keys() | given.keys() if k not in own or k not in given or own[k].shape != given[k].shape
    )
    if wrong:
        raise CheckpointError(
            f"{path} is not of the same encoder",
            got=", ".join(wrong[:5]),
            expected=f"{len(own)} tensors such as {next(iter(own))}",
        )
    module.load_state_dict(given)


@torch.no_grad()
def measured(
    network: nn.Module, parts: Sequence[tuple[Part, NDArray[np.int64]]], *, size: int, batch: int = 64
) -> dict[str, float]:
    """Figures of a network on rows of parts, by the names of tasks; those that nothing has labels for are left out.

    `parsing_f1` (mean of the classes but the background), `landmarks_nme` (inter-ocular), `pose_mae` (degrees, mean of
    yaw, pitch and roll), `attributes_accuracy`, `visibility_recall` (at a precision of 80 %), `age_mae` (years),
    `gender_accuracy`, `race_accuracy`, `expression_accuracy`.
    """
    device = next(network.parameters()).device
    answers: dict[str, list[NDArray[Any]]] = {}
    truths: dict[str, list[NDArray[Any]]] = {}
    for part, rows in parts:
        for start in range(0, len(rows), batch):
            items = [part.item(int(row)) for row in rows[start : start + batch]]
            crops = [labelled_crop(item, crop_map(item, size, None, 0), size, part.tasks) for item in items]
            found = network(normalised(torch.from_numpy(np.stack([crop["image"] for crop in crops])).to(device)))
            for name, value in found.items():
                if name == PARSING:
                    value = value.argmax(1).to(torch.uint8)
                answers.setdefault(name, []).append(value.float().cpu().numpy())
                truths.setdefault(name, []).append(np.stack([crop[name] for crop in crops]))
    joined = ((name, np.concatenate(parts_), np.concatenate(truths[name])) for name, parts_ in answers.items())
    return {key: value for name, found, truth in joined for key, value in figures_of(name, found, truth, size).items()}


def figures_of(name: str, found: NDArray[Any], truth: NDArray[Any], size: int) -> dict[str, float]:
    """The figure of one task from answers and labels (n, …); empty where no label is known."""
    from mien.metrics import nme
    from mien.metrics.classification import f1_of_masks, mask_counts

    if name == PARSING:
        counts = mask_counts(found.astype(np.uint8), truth, classes=len(CLASSES), ignore=UNKNOWN)
        there = counts[1:, 2] > 0
        return {"parsing_f1": float(np.mean(f1_of_masks(counts[1:][there])))} if there.any() else {}
    known = np.isfinite(truth.reshape(len(truth), -1)) if truth.dtype.kind == "f" else (truth >= 0)[:, None]
    rows = known.any(1)
    if not rows.any():
        return {}
    found, truth, known = found[rows], truth[rows], known[rows]
    if name == "landmarks":
        mine, true = (pixels(torch.from_numpy(np.nan_to_num(values)), size).numpy() for values in (found, truth))
        whole = known.all(1)
        return {"landmarks_nme": float(nme(mine[whole], true[whole]).mean())} if whole.any() else {}
    if name == "pose":
        from mien.geometry.pose import euler_from_rotation

        away = np.abs(degrees_of(found) - euler_from_rotation(truth))
        return {"pose_mae": float(np.minimum(away, 360 - away).mean())}
    if name == "attributes":
        return {"attributes_accuracy": float(((found > 0) == (truth > 0.5))[known].mean())}
    if name == "visibility":
        recall = recall_at_precision(found[known], truth[known] < 0.5, 0.8)
        return {} if math.isnan(recall) else {"visibility_recall": recall}
    if name == "age":
        power = np.exp(found - found.max(1, keepdims=True))
        years = power / power.sum(1, keepdims=True) @ np.array(AGE_CENTRES)
        return {"age_mae": float(np.abs(years - truth).mean())}
    return {f"{name}_accuracy": float((found.argmax(1) == truth).mean())}


def recall_at_precision(visible: NDArray[Any], hidden: NDArray[Any], precision: float) -> float:
    """COFW's figure: the largest share of hidden points that are found where at least `precision` of those found are.

    Parameters
    ----------
    visible
        (n,) scores, lower for points that are taken to be hidden.
    hidden
        (n,) bool.
    precision
        0 to 1.

    Returns
    -------
    0 to 1; 0 where no threshold is so precise, NaN where nothing is hidden.
    """
    if not hidden.any():
        return math.nan
    order = np.argsort(visible, kind="stable")
    right = np.cumsum(hidden[order])
    # Points of one score are found together.
    last = np.append(np.diff(visible[order]) > 0, True)
    fits = last & (right / np.arange(1, len(order) + 1) >= precision)
    return float(right[fits].max() / hidden.sum()) if fits.any() else 0.0
