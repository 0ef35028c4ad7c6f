"""Training of landmarks by heatmaps: 2D-FAN, 3D-FAN, 2D-to-3D-FAN and the depth network.

    mien train heatmaps preset=small out=runs/fan
    mien train heatmaps preset=released data=300W_LP kind=3d out=runs/3dfan
    mien train heatmaps preset=depth data=AFLW2000 out=runs/depth

`data` is "heads" (rendered), a folder of 300W-LP or of a set of its form, or, for kind=2d, a folder with ``.pts`` files
beside the pictures. Which points a picture needs follows from `kind`:

==========  =========================================================  =================================
kind        sees                                                       learns
==========  =========================================================  =================================
2d          the picture                                                points of the visible contour
3d          the picture                                                points of the head, projected
2d-to-3d    the picture, and heatmaps of the points of the contour     points of the head, projected
depth       the picture, and heatmaps of the points of the head        their depth, pixels of the crop
==========  =========================================================  =================================

Loss: mean squared error between the heatmaps of every stack and Gaussians of amplitude 1, stacks summed alike; squared
error of the depth. Points outside of the crop, and those that are not known, have empty maps.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, decode
from mien.errors import OptionError, TableError
from mien.geometry.centre_scale import centre_scale, crop_matrices
from mien.nn.fan import FAN, POINTS, DepthNet, PointRegressor
from mien.nn.heatmaps import decode as decode_maps
from mien.nn.heatmaps import draw_gaussians, draw_official, guidance_kernel
from mien.train.draws import Source
from mien.train.loop import Recipe

__all__ = ["HeatmapsRecipe", "PosedFaces", "augmented", "heatmap_loss"]

Floats = NDArray[np.float32]
Kind = Literal["2d", "3d", "2d-to-3d", "depth"]
Augment = Literal["script", "paper", "none"]

W300LP = (np.array([225.0, 275.0]), 1.8)
"""Centre and scale of the crop of all pictures of 300W-LP, which are 450 px wide."""


def heatmap_loss(maps: Sequence[Tensor], target: Tensor) -> Tensor:
    """Mean squared error of each stack's heatmaps (B, K, S, S), summed over the stacks (intermediate supervision)."""
    return torch.stack([F.mse_loss(one, target) for one in maps]).sum()


def augmented(
    centre: NDArray[np.float64], scale: float, size: int, rng: np.random.Generator, how: Augment
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Map (2, 3) from a picture to a crop, gains (3,) of the colours, and whether the crop is mirrored.

    "script", as released: scale by N(1, 0.3) within 0.7 and 1.3, two in five turned by N(0, 30) within 60 degrees, half
    mirrored, each colour times 0.7 to 1.3. "paper": turned by up to 50 degrees, scale by 0.8 to 1.2, mirrored, the same
    colours (and covered: see `PosedFaces`).
    """
    factor, angle, mirror, gains = 1.0, 0.0, False, np.ones(3)
    if how == "script":
        factor = float(np.clip(rng.normal(1, 0.3), 0.7, 1.3))
        angle = float(np.clip(rng.normal(0, 30), -60, 60)) if rng.random() < 0.4 else 0.0
    elif how == "paper":
        factor, angle = float(rng.uniform(0.8, 1.2)), float(rng.uniform(-50, 50))
    if how != "none":
        mirror, gains = bool(rng.random() < 0.5), rng.uniform(0.7, 1.3, 3)
    upright = crop_matrices(centre[None], [scale * factor], size)[0]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cos, -sin], [sin, cos]])
    if mirror:
        turn[0] *= -1
    middle = np.full(2, size / 2 - 0.5)
    matrix = np.concatenate([turn @ upright[:, :2], (turn @ (upright[:, 2] - middle) + middle)[:, None]], 1)
    return matrix, gains, mirror


class PosedFaces(Source):
    """Crops with points of both kinds.

    A sample: `image` (S, S, 3) uint8; `flat` and `head` (68, 2), points of the visible contour and of the head in
    pixels of the crop from its edge, NaN where not known or outside; `depth` (68,), NaN where not known.

    Parameters
    ----------
    pictures
        Encoded files, paths, or pictures (H, W, 3).
    flat, head
        (n, 68, 2) and (n, 68, 2 or 3) in pixels, the middle of the first is 0; None where the set has none.
    size
        Side of the crops.
    augment
        See `augmented`.
    crop
        "box": by the box of the points, moved by up to 5 % of its side and scaled by up to 10 % where augmented.
        "w300lp": by the middle of 300W-LP's pictures.
    """

    def __init__(
        self, pictures: Sequence[Any], flat: Floats | None, head: Floats | None, *, size: int, augment: Augment,
        crop: Literal["box", "w300lp"] = "box",
    ) -> None:  # fmt: skip
        self.pictures, self.flat, self.head = pictures, flat, head
        self.size, self.augment, self.crop = size, augment, crop

    def __len__(self) -> int:
        return len(self.pictures)

    def picture(self, index: int) -> Picture:
        held = self.pictures[index]
        if isinstance(held, Path):
            held = np.fromfile(held, np.uint8)
        return decode(held) if held.ndim == 1 else held

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        from mien.geometry import similarity, warp_images
        from mien.geometry.landmarks import FLIP68

        shown = self.head if self.head is not None else self.flat
        assert shown is not None
        if self.crop == "box":
            edge = shown[index, :, :2].astype(np.float64) + 0.5
            (centre,), (scale,) = centre_scale(np.concatenate([edge.min(0), edge.max(0)])[None])
            if self.augment != "none":
                centre = centre + rng.uniform(-0.05, 0.05, 2) * scale * 100
                scale = scale * rng.uniform(0.9, 1.1)
        else:
            centre, scale = W300LP
        matrix, gains, mirror = augmented(centre, float(scale), self.size, rng, self.augment)
        crop = warp_images(self.picture(index), matrix[None], self.size)[0]
        if self.augment != "none":
            crop = np.clip(crop * gains, 0, 255).astype(np.uint8)
        if self.augment == "paper" and rng.random() < 0.5:
            cover(crop, rng)
        placed: dict[str, Floats] = {}
        for name, points in (("flat", self.flat), ("head", self.head)):
            put = np.full((POINTS, 2), np.nan, np.float32)
            if points is not None:
                put = (points[index, :, :2] @ matrix[:, :2].T + matrix[:, 2] + 0.5).astype(np.float32)
                put[((put <= 0) | (put >= self.size)).any(1)] = np.nan
            placed[name] = put[FLIP68] if mirror else put
        depth = np.full(POINTS, np.nan, np.float32)
        if self.head is not None and self.head.shape[2] == 3:
            depth = (self.head[index, :, 2] * float(similarity.scale_of(matrix))).astype(np.float32)
            depth = depth[FLIP68] if mirror else depth
        return {"image": np.asarray(crop, np.uint8), **placed, "depth": depth}


def cover(crop: Picture, rng: np.random.Generator) -> None:
    """Paints a rectangle of noise over up to a sixth of `crop`, in place."""
    side = len(crop)
    height, width = (rng.uniform(0.1, 0.4, 2) * side).astype(int)
    y, x = int(rng.integers(side - height)), int(rng.integers(side - width))
    crop[y : y + height, x : x + width] = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def rendered_faces(count: int, *, seed: int, size: int, augment: Augment, max_yaw: float, need: tuple[str, ...]
                   ) -> PosedFaces:  # fmt: skip
    """Rendered heads turned by up to `max_yaw` to either side, evenly, in pictures of up to 256 px."""
    from mien.data.heads import render, sample
    from mien.data.heads.contour import visible_contour

    side = min(256, max(64, round(1.5 * size)))
    rng = np.random.default_rng([seed, 5])
    pictures: list[Picture] = []
    flat, head = [], []
    for start in range(0, count, 256):
        some = sample(min(256, count - start), seed=seed, start=start)
        pose = some.pose.copy()
        pose[:, 0] = rng.uniform(-max_yaw, max_yaw, len(pose))
        some = some.with_(pose=pose)
        drawn = render(some, size=side, what=("image", "landmarks"))
        pictures += list(drawn.image)
        head.append(np.asarray(drawn.landmarks_3d, np.float32))
        if "2d" in need:
            flat.append(visible_contour(some, size=side))
    return PosedFaces(
        pictures, np.concatenate(flat) if flat else None, np.concatenate(head), size=size, augment=augment
    )


@dataclass(kw_only=True)
class HeatmapsRecipe(Recipe):
    """Trains one of the four networks; see the module.

    Parameters
    ----------
    kind
        Which.
    data
        "heads", or the folder of a set.
    stacks, width, levels, stride, pool, affine
        Of the network (`mien.nn.fan.FAN`).
    answer
        "heatmaps", or "points": a network of as many parameters that gives the points directly, to compare with.
    depths, depth_width, depth_pool
        Of the depth network (`mien.nn.fan.DepthNet`).
    size
        Side of the crops in pixels.
    kernel
        Side of the Gaussians in cells; their standard deviation is a quarter of it.
    official
        Whether targets are drawn to the cell, as the released code draws, rather than about the points themselves.
    crop, augment
        See `PosedFaces` and `augmented`.
    max_yaw
        Heads, and pictures with points of the head, that are turned farther are not trained on; degrees.
    drops, factors
        For schedule=steps: shares of the run after which the rate is that factor of `lr`.
    heads, checked
        With data=heads: how many are trained on, how many others measured on.
    held
        Of a set: share of its pictures that are measured on and not trained on. The turned versions of one picture stay
        together.
    """

    kind: Kind = "3d"
    data: str = "heads"
    stacks: int = 4
    width: int = 256
    levels: int = 4
    stride: int = 4
    pool: Literal["avg", "max"] = "avg"
    affine: bool = True
    answer: Literal["heatmaps", "points"] = "heatmaps"
    depths: tuple[int, ...] = (3, 8, 36, 3)
    depth_width: int = 64
    depth_pool: int = 0
    size: int = 256
    kernel: int = 7
    official: bool = False
    crop: Literal["box", "w300lp"] = "box"
    augment: Augment = "script"
    max_yaw: float = 90.0
    drops: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    heads: int = 8000
    checked: int = 256
    held: float = 0.02

    SCHEDULES: ClassVar[tuple[str, ...]] = (*Recipe.SCHEDULES, "steps")
    FREE: ClassVar[frozenset[str]] = Recipe.FREE | {"checked"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # The authors' training script: 100 epochs of 61,225 pictures.
        "released": {
            "batch_size": 10, "steps": 612_250, "optimizer": "rmsprop", "lr": 2.5e-4, "schedule": "steps",
            "drops": (0.5, 0.7, 0.9), "factors": (0.4, 0.2, 0.04), "warmup": 0, "weight_decay": 0.0, "clip": 0.0,
            "ema": 0.0, "crop": "w300lp", "augment": "script", "half": False, "save_every": 5000, "workers": 8,
        },
        # The paper's text: 40 epochs.
        "paper": {
            "batch_size": 10, "steps": 244_900, "optimizer": "rmsprop", "lr": 1e-4, "schedule": "steps",
            "drops": (0.375, 0.75), "factors": (0.1, 0.01), "warmup": 0, "weight_decay": 0.0, "clip": 0.0, "ema": 0.0,
            "crop": "box", "augment": "paper", "half": False, "save_every": 5000, "workers": 8,
        },
        # 50 epochs of as many pictures.
        "depth": {
            "kind": "depth", "batch_size": 10, "steps": 306_125, "optimizer": "rmsprop", "lr": 1e-4, "warmup": 0,
            "schedule": "steps", "drops": (0.375, 0.75), "factors": (0.1, 0.01), "weight_decay": 0.0, "clip": 0.0,
            "ema": 0.0, "augment": "paper", "half": False, "save_every": 5000, "workers": 8,
        },
        # Minutes on a processor.
        "small": {
            "stacks": 1, "width": 48, "levels": 3, "stride": 2, "size": 64, "batch_size": 16, "steps": 800,
            "optimizer": "rmsprop", "lr": 2e-3, "warmup": 30, "weight_decay": 0.0, "ema": 0.99, "heads": 1500,
            "depths": (1, 1, 1, 1), "depth_width": 16,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        right = (
            len(self.drops) == len(self.factors) and list(self.drops) == sorted(self.drops) and 0 <= self.held < 1
            and self.kernel >= 1 and min(self.heads, self.checked, self.size) >= 1 and self.max_yaw > 0
            and all(0 < share < 1 for share in self.drops) and all(factor > 0 for factor in self.factors)
        )  # fmt: skip
        if not right:
            raise OptionError(
                "a number is out of its range",
                got=f"drops {self.drops}, factors {self.factors}, held {self.held}, kernel {self.kernel}, "
                f"heads {self.heads}, checked {self.checked}, size {self.size}, max_yaw {self.max_yaw}",
                expected="as many factors as rising drops, positive sizes, held of 0 to below 1",
            )
        if self.answer == "points" and self.kind not in ("2d", "3d"):
            raise OptionError("points are answered directly from pictures only", got=self.kind, expected="2d or 3d")

    def pace(self, step: int) -> float:
        if self.schedule != "steps":
            return super().pace(step)
        if step < self.warmup:
            return (step + 1) / self.warmup
        passed = sum(step >= share * self.steps for share in self.drops)
        return self.factors[passed - 1] if passed else 1.0

    # ------------------------------------------------------------------------------------------- network

    def build(self) -> nn.Module:
        common: dict[str, Any] = {"width": self.width, "levels": self.levels, "stride": self.stride,
                                  "pool": self.pool, "affine": self.affine}  # fmt: skip
        if self.kind == "depth":
            return DepthNet(depths=self.depths, width=self.depth_width, pool=self.depth_pool)
        if self.answer == "points":
            return PointRegressor(size=self.size, **common)
        return FAN(stacks=self.stacks, channels=self._channels, **common)

    @property
    def _channels(self) -> int:
        return 3 if self.kind in ("2d", "3d") else 3 + POINTS

    def input_shape(self) -> tuple[int, ...]:
        return (1, self._channels, self.size, self.size)

    # ------------------------------------------------------------------------------------------- data

    @property
    def _need(self) -> tuple[str, ...]:
        return {"2d": ("2d",), "3d": ("3d",), "2d-to-3d": ("2d", "3d"), "depth": ("3d",)}[self.kind]

    @cached_property
    def _sets(self) -> tuple[PosedFaces, PosedFaces]:
        """Faces to train on, and others to measure on."""
        if self.data == "heads":
            return tuple(  # type: ignore[return-value]
                rendered_faces(count, seed=zlib.crc32(name), size=self.size, augment=augment, max_yaw=yaw,
                               need=self._need)
                for count, name, augment, yaw in (
                    (self.heads, b"heatmaps", self.augment, self.max_yaw),
                    (self.checked, b"heatmaps, held out", "none", 90.0),
                )
            )  # fmt: skip
        from mien.data.sets import held_out
        from mien.geometry.projected import yaw_of

        files, names, flat, head = self._read()
        held = held_out(names, self.held)
        train = ~held
        if head is not None:
            train &= np.abs(yaw_of(head[..., :2])) <= self.max_yaw
        if not train.any():
            raise TableError("nothing is left to train on", got=f"{self.data}, held {self.held}",
                             expected=f"pictures with |yaw| up to {self.max_yaw:g}")  # fmt: skip

        def part(rows: NDArray[np.bool_], augment: Augment) -> PosedFaces:
            return PosedFaces(
                [files[row] for row in np.flatnonzero(rows)], None if flat is None else flat[rows],
                None if head is None else head[rows], size=self.size, augment=augment, crop=self.crop,
            )  # fmt: skip

        return part(train, self.augment), part(held, "none")

    def _read(self) -> tuple[list[Path], list[str], Floats | None, Floats | None]:
        """Files; a name of each that its turned versions share; points of the contour, and of the head."""
        from mien.data.formats import read_300w
        from mien.data.w300lp import read_w300lp

        root = Path(self.data)
        if self.kind == "2d" and root.is_dir() and next(root.rglob("*.pts"), None) is not None:
            samples = read_300w(root)
            if samples.points is None or samples.points.shape[1] != POINTS:
                raise TableError("the set has other points", got=str(root), expected=f"{POINTS} points a picture")
            return [root / key for key in samples.keys], list(samples.keys), samples.points, None
        faces = read_w300lp(root, need=self._need, deep=self.kind == "depth")
        # Names of 300W-LP end in the number of the turned version.
        names = [file.stem.rpartition("_")[0] or file.stem for file in faces.files]
        return list(faces.files), names, faces.points_2d, faces.points_3d

    def source(self) -> Source:
        return self._sets[0]

    # ------------------------------------------------------------------------------------------- loss and figures

    def _seen(self, batch: dict[str, Tensor]) -> Tensor:
        image = batch["image"].permute(0, 3, 1, 2).float() / 255
        if self._channels == 3:
            return image
        points = batch["flat" if self.kind == "2d-to-3d" else "head"]
        return torch.cat([image, draw_gaussians(points, self.size, kernel=guidance_kernel(self.size))], 1)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        found = module(self._seen(batch))
        if self.kind == "depth":
            known = torch.isfinite(batch["depth"])
            away = torch.where(known, found.float() - torch.nan_to_num(batch["depth"]), 0.0)
            squared = (away**2).sum() / known.sum().clamp_min(1)
            return squared, {"px": away.abs().sum().detach() / known.sum().clamp_min(1)}
        truth = batch["flat" if self.kind == "2d" else "head"]
        if self.answer == "points":
            known = torch.isfinite(truth)
            away = torch.where(known, found.float() - torch.nan_to_num(truth) / self.size, 0.0)
            return (away**2).sum() / known.sum().clamp_min(1), {}
        draw = draw_official if self.official else draw_gaussians
        target = draw(truth / self.stride, self.size // self.stride, kernel=self.kernel)
        maps = [one.float() for one in found]
        return heatmap_loss(maps, target), {"last": F.mse_loss(maps[-1], target).detach()}

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Of the held-out faces that are whole in the crop: `auc7` and `nme` by the box of the points.

        Of the depth network `depth`, its mean error in pixels of the crop.

        `nme_0`, `nme_30`, `nme_60`: of faces turned by 0 to 30, 30 to 60, 60 and more degrees.
        """
        from mien.geometry.projected import yaw_of
        from mien.metrics import auc_at, nme

        held = self._sets[1]
        if not len(held):
            return {}
        device = next(network.parameters()).device
        found: list[NDArray[np.float64]] = []
        truth: list[NDArray[np.float64]] = []
        for start in range(0, len(held), 32):
            rows = [held.sample(row, np.random.default_rng(0)) for row in range(start, min(start + 32, len(held)))]
            batch = {name: torch.from_numpy(np.stack([row[name] for row in rows])).to(device) for name in rows[0]}
            given = network(self._seen(batch))
            if self.kind == "depth":
                answer, right = given[..., None], batch["depth"][..., None]
            else:
                right = batch["flat" if self.kind == "2d" else "head"]
                answer = given * self.size if self.answer == "points" else decode_maps(given[-1])[0] * self.stride
            found.append(answer.double().cpu().numpy())
            truth.append(right.double().cpu().numpy())
        predicted, true = np.concatenate(found), np.concatenate(truth)
        if self.kind == "depth":
            return {"depth": float(np.nanmean(np.abs(predicted - true)))}
        whole = np.isfinite(true).all((1, 2))
        if not whole.any():
            return {}
        errors = nme(predicted[whole], true[whole], normaliser="box")
        figures = {"auc7": auc_at(errors, 0.07), "nme": float(errors.mean())}
        if self.kind != "2d":
            turned = np.abs(yaw_of(true[whole]))
            for low, high in ((0, 30), (30, 60), (60, 180)):
                some = (turned >= low) & (turned < high)
                if some.any():
                    figures[f"nme_{low}"] = float(errors[some].mean())
        return figures
