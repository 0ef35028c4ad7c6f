"""LNet: a network that learns what a picture's faces look like, and so where they are (Liu et al., 2015, section 3.1).

    picture (B, 3, H, W) -> convolutions -> C5 (B, c, h, w) -> pooled -> tags (B, k)
                                              |
                                              mean over channels: the response map (B, h, w) -> a window

Nobody ever gives it a box. Tags of the whole picture ("wears glasses", "smiles") can only be told from the face, so
that the last convolution answers there. `best_windows` turns a response map into a window; `several_windows` finds
several faces in one map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, ShapeError

Pool = Literal["max", "mean"]

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "alexnet": MappingProxyType(
            {
                "channels": (96, 256, 384, 384, 256),
                "kernels": (11, 5, 3, 3, 3),
                "strides": (4, 1, 1, 1, 1),
                "paddings": (0, 2, 1, 1, 1),
                "pooled": (True, True, False, False, False),
                "normalised": (True, True, False, False, False),
            }
        ),
        "torchvision": MappingProxyType(
            {
                "channels": (64, 192, 384, 256, 256),
                "kernels": (11, 5, 3, 3, 3),
                "strides": (4, 1, 1, 1, 1),
                "paddings": (2, 2, 1, 1, 1),
                "pooled": (True, True, False, False, False),
                "normalised": (False,) * 5,
            }
        ),
        "small": MappingProxyType(
            {
                "channels": (16, 32, 48, 64),
                "kernels": (3, 3, 3, 3),
                "strides": (2, 2, 2, 1),
                "paddings": (1, 1, 1, 1),
                "pooled": (False,) * 4,
                "normalised": (False,) * 4,
            }
        ),
    }
)
"""Convolutions by name: the paper's, those of torchvision's AlexNet (whose weights fit), four for 64 px."""


class LNet(nn.Module):
    """Tags of pictures (B, 3, H, W), any H and W that the convolutions leave something of -> (B, tags) logits.

    Parameters
    ----------
    tags
        How many are told.
    variant
        Of `VARIANTS`.
    width
        Factor on all channels.
    pool
        What of C5 the tags are read from: the largest value of each channel, or its mean. The largest one lets a small
        face count as much as a large one.
    """

    def __init__(self, *, tags: int, variant: str, width: float, pool: Pool) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise OptionError.unknown("unknown variant of LNet", variant, VARIANTS)
        if pool not in ("max", "mean"):
            raise OptionError.unknown("unknown pooling", pool, ("max", "mean"))
        numbers = VARIANTS[variant]
        self.pool = pool
        self.pooled: tuple[bool, ...] = numbers["pooled"]
        self.normalised: tuple[bool, ...] = numbers["normalised"]
        self.convs = nn.ModuleList()
        before = 3
        for channels, kernel, stride, padding in zip(
            *(numbers[name] for name in ("channels", "kernels", "strides", "paddings")), strict=True
        ):
            wide = max(8, round(channels * width))
            conv = nn.Conv2d(before, wide, kernel, stride, padding)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, conv.bias))
            self.convs.append(conv)
            before = wide
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        self.tags = nn.Linear(before, tags)
        nn.init.normal_(self.tags.weight, std=0.01)
        nn.init.zeros_(self.tags.bias)

    def maps(self, x: Tensor) -> Tensor:
        """C5 after its ReLU and before anything that normalises it, (B, c, h, w)."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ShapeError("pictures of LNet", got=tuple(x.shape), expected="(B, 3, H, W)")
        for conv, pooled, normalised in zip(self.convs, self.pooled, self.normalised, strict=True):
            x = F.relu(conv(x))
            if normalised:
                x = self.norm(x)
            if pooled:
                x = F.max_pool2d(x, 3, 2)
        return x

    def read(self, maps: Tensor) -> Tensor:
        """Tags (B, tags) of C5."""
        pooled = maps.amax((2, 3)) if self.pool == "max" else maps.mean((2, 3))
        return cast(Tensor, self.tags(pooled))

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.maps(x))

    def response(self, x: Tensor) -> Tensor:
        """The averaged response map (B, h, w) of section 3.1: the mean of C5 over its channels."""
        return self.maps(x).mean(1)

    @property
    def cells(self) -> tuple[float, float]:
        """Where cells of the map lie: cell i spans ``first + i * step`` to ``first + (i + 1) * step`` pixels."""
        start, step = 0.0, 1.0
        for conv, pooled in zip(self.convs, self.pooled, strict=True):
            assert isinstance(conv, nn.Conv2d)
            start += ((conv.kernel_size[0] - 1) / 2 - cast(int, conv.padding[0])) * step
            step *= conv.stride[0]
            if pooled:
                start += step
                step *= 2
        return start + 0.5 - step / 2, step


def lnet(*, tags: int = 40, variant: str = "alexnet", width: float = 1.0, pool: Pool = "max") -> LNet:
    """The paper's convolutions, 3.7 M parameters, 1.1 GMAC at 227 px."""
    return LNet(tags=tags, variant=variant, width=width, pool=pool)


class Objects(nn.Module):
    """What LNet is pre-trained as: its convolutions under AlexNet's classifier of objects, (B, 3, size, size) ->
    (B, classes) logits. The tags are left alone.

    Parameters
    ----------
    network
        Whose convolutions learn.
    classes
        Kinds of objects, 1,000 in ILSVRC-2012.
    size
        Side of the pictures, px.
    hidden
        Units of the two layers between.
    """

    def __init__(self, network: LNet, *, classes: int, size: int, hidden: int) -> None:
        super().__init__()
        self.network = network
        network.tags.requires_grad_(False)
        self.shrinks = network.pooled[0]
        with torch.no_grad():
            features = self.maps(torch.zeros(1, 3, size, size)).numel()
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Linear(features, hidden), nn.ReLU(inplace=True),
            nn.Dropout(0.5), nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, classes),
        )  # fmt: skip

    def maps(self, x: Tensor) -> Tensor:
        """C5 after AlexNet's third pooling, which LNet has not."""
        maps = self.network.maps(x)
        return F.max_pool2d(maps, 3, 2) if self.shrinks else maps

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.maps(x).flatten(1)))


def start_from_torchvision(network: LNet, state: Mapping[str, Tensor]) -> None:
    """Fills the convolutions of the variant "torchvision" from a state dict of torchvision's AlexNet, ImageNet's.

    Its classifier is left out by name; any other key that is unknown or missing is an error. Those weights
    want ``(x / 255 - mean) / std``, which is folded into the first convolution: the network takes what all of
    mien's do. Only what lies beyond the border is another grey.

    Raises
    ------
    CheckpointError
        The keys or shapes are not those of AlexNet's ``features``.
    """
    given = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    places = dict(zip((0, 3, 6, 8, 10), range(5), strict=True))
    names = {
        f"features.{place}.{kind}": f"{layer}.{kind}" for place, layer in places.items() for kind in ("weight", "bias")
    }
    own = network.convs.state_dict()
    wrong = sorted(
        name
        for name in given.keys() | names.keys()
        if name not in given
        or name not in names
        or names[name] not in own
        or given[name].shape != own[names[name]].shape
    )
    if wrong:
        raise CheckpointError(
            "these are not the convolutions of torchvision's AlexNet", got=wrong[:5],
            expected="features.{0,3,6,8,10}.{weight,bias}, and a network of variant='torchvision', width=1",
        )  # fmt: skip
    state_of = {names[name]: tensor.float() for name, tensor in given.items()}
    # ImageNet's scaling goes into the first convolution: w (x' - m) / s with x' = (128 x + 127.5) / 255.
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    weight = state_of["0.weight"]
    shift = ((127.5 / 255 - mean) / std)[None, :, None, None]
    state_of["0.bias"] = state_of["0.bias"] + (weight * shift).sum((1, 2, 3))
    state_of["0.weight"] = weight * (128 / 255 / std)[None, :, None, None]
    network.convs.load_state_dict(state_of)


# ------------------------------------------------------------------------------------------- windows


@dataclass(frozen=True)
class Windows:
    """The best window of each picture: `boxes` (B, 4) xyxy px of the network's input, `scores` (B,) in units of the
    response, `peaks` (B, 2) x, y px where the response is largest."""

    boxes: Tensor
    scores: Tensor
    peaks: Tensor


def settled(response: Tensor, *, frame: int = 1) -> Tensor:
    """Response maps (B, h, w) less their median, and 0 in a frame of so many cells, where zero padding answers."""
    if response.ndim != 3:
        raise ShapeError("response maps", got=tuple(response.shape), expected="(B, h, w)")
    flat = response - response.flatten(1).median(1).values[:, None, None]
    if frame == 0 or min(response.shape[1:]) <= 2 * frame:
        return flat
    keep = torch.zeros_like(flat[0])
    keep[frame:-frame, frame:-frame] = 1
    return flat * keep


def coverage(boxes: Tensor, height: int, width: int) -> Tensor:
    """(n, height * width) area of each cell that lies in each box (n, 4), xyxy in cells."""
    y, x = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)

    def over(low: Tensor, high: Tensor, at: Tensor) -> Tensor:
        return (torch.minimum(high[:, None], at + 1.0) - torch.maximum(low[:, None], at.to(low))).clamp_min(0)

    rows, columns = over(boxes[:, 1], boxes[:, 3], y), over(boxes[:, 0], boxes[:, 2], x)
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


def window_scores(response: Tensor, boxes: Tensor, *, ring: float = 2.0) -> Tensor:
    """Scores (B, n) of boxes (n, 4), xyxy in cells: the mean response inside less the mean in a ring around.

    A response map is constant in each cell, so that a box need not lie on their edges. All scores of all pictures are
    one matrix product.

    Parameters
    ----------
    response
        (B, h, w), as `settled` gives it.
    boxes
        Sliding windows, or proposals of any other kind (EdgeBoxes, as in the paper).
    ring
        Side of the ring's outer edge in sides of the box; 1 leaves the ring out. Without it the smallest window about
        the peak always wins. Of the ring only what lies in the map counts.
    """
    height, width = response.shape[1:]
    inside = coverage(boxes, height, width)
    weights = inside / inside.sum(1, keepdim=True).clamp_min(1e-6)
    if ring > 1:
        centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * ring
        around = coverage(torch.cat([centre - half, centre + half], 1), height, width) - inside
        weights = weights - around / around.sum(1, keepdim=True).clamp_min(1e-6)
    return response.flatten(1) @ weights.T.to(response)


def sliding(
    sides: tuple[float, ...], *, aspect: float = 1.0, step: float = 0.2, within: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Windows (n, 4) xyxy of several sizes all over the unit square.

    Parameters
    ----------
    sides
        Heights, shares of the square.
    aspect
        Height over width.
    step
        Between windows, share of the side.
    within
        Width and height of the part of the square, from its upper left, that windows must lie in.
    """
    if not sides or not all(0 < side <= 1 for side in sides) or aspect <= 0 or step <= 0:
        raise OptionError("no such windows", got=(sides, aspect, step), expected="sides in 0 to 1, aspect, step > 0")
    parts = []
    for side in sides:
        wide, high = side / aspect, side
        if wide > within[0] or high > within[1]:
            continue
        x = torch.linspace(0, within[0] - wide, 1 + max(1, round((within[0] - wide) / (step * wide))))
        y = torch.linspace(0, within[1] - high, 1 + max(1, round((within[1] - high) / (step * high))))
        top, left = (one.flatten() for one in torch.meshgrid(y, x, indexing="ij"))
        parts.append(torch.stack([left, top, left + wide, top + high], 1))
    if not parts:  # a strip narrower than all windows: the whole of it
        return torch.tensor([[0.0, 0.0, *within]])
    return torch.cat(parts)


def best_windows(
    network: LNet,
    images: Tensor,
    *,
    sides: tuple[float, ...],
    aspect: float = 1.0,
    step: float = 0.2,
    ring: float = 2.0,
    frame: int = 1,
    within: tuple[float, float] = (1.0, 1.0),
    candidates: Tensor | None = None,
    response: Tensor | None = None,
) -> Windows:
    """Where the network looks: the best-scoring window of each picture.

    Parameters
    ----------
    network
        Trained by tags.
    images
        (B, 3, S, S) as the network wants them.
    sides, aspect, step
        Of `sliding` windows, shares of S.
    ring, frame
        See `window_scores` and `settled`.
    within
        Share of the width and of the height that is picture; the rest is padding.
    candidates
        (n, 4) xyxy px to choose from instead.
    response
        The pictures' response maps, where they are there already.
    """
    maps = settled(network.response(images) if response is None else response, frame=frame)
    first, pitch = network.cells
    height, width = images.shape[2:]
    if candidates is None:
        candidates = sliding(sides, aspect=aspect, step=step, within=within).to(images) * torch.tensor(
            [width, height, width, height], device=images.device
        )
    scores = window_scores(maps, (candidates - first) / pitch, ring=ring)
    best = scores.argmax(1)
    rows, columns = maps.shape[1:]
    shown = maps
    if within != (1.0, 1.0):
        y = first + (torch.arange(rows, device=maps.device) + 0.5) * pitch < within[1] * height
        x = first + (torch.arange(columns, device=maps.device) + 0.5) * pitch < within[0] * width
        shown = torch.where(y[:, None] & x, maps, maps.amin((1, 2), keepdim=True))
    peak = shown.flatten(1).argmax(1)
    points = torch.stack([peak % columns, torch.div(peak, columns, rounding_mode="floor")], 1)
    return Windows(candidates[best], scores.gather(1, best[:, None])[:, 0], first + (points + 0.5) * pitch)


def density_peaks(response: Tensor, *, least: float = 0.3, apart: float = 2.0, most: int = 16) -> list[Tensor]:
    """Places of several faces: cells of high response, far from any cell of a higher one (Rodriguez and Laio, 2014).

    Parameters
    ----------
    response
        (B, h, w), as `settled` gives it.
    least
        Least response of a centre, share of the map's largest.
    apart
        Least distance to a cell of higher response, cells.
    most
        At most so many a picture.

    Returns
    -------
    list of Tensor
        (n, 2) x, y in cells (their middles) a picture, the highest first; none where the map is flat.
    """
    height, width = response.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x.flatten(), y.flatten()], 1).to(response) + 0.5
    gaps = torch.cdist(places, places)
    found = []
    for row in response.flatten(1):
        order = row.argsort(descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=row.device)
        # Of two equal cells the first counts as the higher one, or neither would be a centre.
        nearest = torch.where(rank[None, :] < rank[:, None], gaps, torch.inf).amin(1)
        centre = (row > 0) & (row >= least * row.max()) & (nearest >= apart)
        chosen = order[centre[order]][:most]
        found.append(places[chosen])
    return found


def several_windows(
    network: LNet,
    images: Tensor,
    *,
    sides: tuple[float, ...],
    aspect: float = 1.0,
    step: float = 0.2,
    ring: float = 2.0,
    frame: int = 1,
    least: float = 0.3,
    apart: float = 2.0,
    most: int = 16,
) -> list[Windows]:
    """All faces of each picture: of every density peak the best window that is centred on it.

    Parameters
    ----------
    network, images, sides, aspect, step, ring, frame
        See `best_windows`.
    least, apart, most
        See `density_peaks`.
    """
    maps = settled(network.response(images), frame=frame)
    first, pitch = network.cells
    scale = torch.tensor([images.shape[3], images.shape[2]] * 2, device=images.device)
    candidates = sliding(sides, aspect=aspect, step=step).to(images) * scale
    scores = window_scores(maps, (candidates - first) / pitch, ring=ring)
    centres, sizes = (candidates[:, :2] + candidates[:, 2:]) / 2, candidates[:, 2:] - candidates[:, :2]
    found = []
    for row, peaks in zip(scores, density_peaks(maps, least=least, apart=apart, most=most), strict=True):
        at = first + peaks * pitch
        # The peak lies in the middle half of the window.
        near = ((at[:, None] - centres).abs() <= sizes / 4).all(2)
        allowed = torch.where(near, row, -torch.inf)
        value, best = allowed.max(1) if len(at) else (row[:0], torch.zeros(0, dtype=torch.int64))
        keep = torch.isfinite(value)
        found.append(Windows(candidates[best[keep]], value[keep], at[keep]))
    return found


def squares(boxes: Tensor, *, grow: float = 1.0) -> Tensor:
    """Squares (n, 4) about the centres of boxes (n, 4), `grow` times as wide as the longer side."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) * (grow / 2)
    return torch.cat([centre - half, centre + half], 1)


def cut(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crops (B, 3, size, size) of the box (B, 4) xyxy px of each picture (B, 3, H, W); zeros outside of it.

    Each pixel is the mean of several samples, as many as a box of half of the picture needs so that nothing aliases.
    """
    if boxes.shape != (len(images), 4):
        raise ShapeError("a crop needs a box", got=tuple(boxes.shape), expected=f"({len(images)}, 4)")
    if not len(images):
        return images.new_zeros((0, 3, size, size))
    height, width = images.shape[2:]
    # By the pictures' size and not by the boxes', so that a crop does not depend on which others share its batch.
    finer = min(8, max(1, round(max(height, width) / (2 * size))))
    places = (torch.arange(size * finer, device=images.device) + 0.5) / (size * finer)
    x = boxes[:, :1] + places * (boxes[:, 2:3] - boxes[:, :1])
    y = boxes[:, 1:2] + places * (boxes[:, 3:4] - boxes[:, 1:2])
    grid = torch.stack(
        [(x * (2 / width) - 1)[:, None, :].expand(-1, len(places), -1),
         (y * (2 / height) - 1)[:, :, None].expand(-1, -1, len(places))], 3
    ).to(images)  # fmt: skip
    drawn = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(drawn, finer) if finer > 1 else drawn
