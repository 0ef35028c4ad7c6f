"""ANet: features of faces that LNets found, for many attributes at once (Liu et al., 2015); and the cascade.

    face window (B, 3, S, S) -> C1, C2 (shared everywhere) -> C3, C4 (other filters in each cell of a grid) -> FC

    picture -> LNet_o -> head and shoulders -> LNet_s -> face -> several shifted views -> FC of each -> linear -> tags

`LocallyShared` is a convolution whose filters differ from cell to cell. `ANet.views` reads many shifted views of one
window at the cost of little more than one, since their maps are interwoven from those of the whole window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError
from mien.nn.lnet import LNet, Pool, Windows, best_windows, cut, squares

CELEBA = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes",
    "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
)  # fmt: skip
"""The forty attributes in the order of CelebA's list."""

Join = Literal["concat", "mean"]

SHRINK = 4
"""Pixels between views that share their maps: two poolings."""

HEAD_SIDES = (0.2, 0.28, 0.4, 0.56, 0.8)
"""Of LNet_o's windows, shares of the picture's longer side."""
FACE_SIDES = (0.4, 0.5, 0.62, 0.78)
"""Of LNet_s's windows, shares of the crop. No smaller ones: maps of tags answer to parts of a face."""
GROW = 2.0
"""How many sides of its window the crop for LNet_s is wide: the first window may be off by some of a face."""
MARGIN = 1.2
"""How many sides of its window ANet sees: hair, hat and chin lie at the edge of what LNet_s answers to."""


class LocallyShared(nn.Module):
    """Convolution without padding whose filters differ from cell to cell: (B, c, H, W) -> (B, out, H - k + 1, …).

    The output is divided into ``grid`` x ``grid`` cells, as equal as they can be, the last ones being the smaller; each
    has its own filters, and sees the input under its outputs, the k - 1 pixels beyond its border among them.

    Parameters
    ----------
    channels, out, kernel
        As of an ordinary convolution.
    grid
        Cells to a side; 1 is an ordinary convolution.
    """

    def __init__(self, channels: int, out: int, kernel: int, *, grid: int) -> None:
        super().__init__()
        if grid < 1:
            raise OptionError("a grid has cells", got=grid, expected="at least 1")
        self.kernel, self.grid = kernel, grid
        # The cells' filters one after the other, row by row: four dimensions, so that they can be channels-last.
        self.weight = nn.Parameter(torch.empty(grid * grid * out, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(grid * grid * out))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def cell(self, length: int) -> int:
        """Side of a cell in a map of `length` outputs to a side."""
        return -(-length // self.grid)

    def forward(self, x: Tensor) -> Tensor:
        g, k = self.grid, self.kernel
        height, width = x.shape[2] - k + 1, x.shape[3] - k + 1
        if min(height, width) < g:
            raise ShapeError("the map is smaller than the grid", got=tuple(x.shape), expected=f"{g + k - 1} to a side")
        high, wide = self.cell(height), self.cell(width)
        x = F.pad(x, (0, g * wide - width, 0, g * high - height))
        # Cells become groups of channels, so that all are one grouped convolution.
        parts = x.unfold(2, high + k - 1, high).unfold(3, wide + k - 1, wide).permute(0, 2, 3, 1, 4, 5)
        parts = parts.reshape(x.shape[0], g * g * x.shape[1], high + k - 1, wide + k - 1)
        made = F.conv2d(parts, self.weight, self.bias, groups=g * g)
        out = len(self.bias) // (g * g)
        made = made.reshape(-1, g, g, out, high, wide).permute(0, 3, 1, 4, 2, 5)
        return made.reshape(-1, out, g * high, g * wide)[:, :, :height, :width]

    def interwoven(self, x: Tensor, places: tuple[tuple[int, int], ...], side: int) -> Tensor:
        """The same for several views of one larger map, (B, c, H, W) -> (B, places, out, side - k + 1, side - k + 1).

        Every cell's filters run over the whole map once; each view then takes of every cell's answers those that lie
        where the cell lies in the view.

        Parameters
        ----------
        x
            The larger map.
        places
            Upper left corners (x, y) of the views in it.
        side
            Of a view, in the map's pixels.
        """
        g, k = self.grid, self.kernel
        length = side - k + 1
        step = self.cell(length)
        everywhere = F.conv2d(x, self.weight, self.bias)
        everywhere = everywhere.reshape(len(x), g, g, -1, *everywhere.shape[2:])
        views = []
        for left, top in places:
            rows = []
            for i in range(g):
                low, high = top + min(i * step, length), top + min((i + 1) * step, length)
                ends = [(left + min(j * step, length), left + min((j + 1) * step, length)) for j in range(g)]
                rows.append(torch.cat([everywhere[:, i, j, :, low:high, a:b] for j, (a, b) in enumerate(ends)], 3))
            views.append(torch.cat(rows, 2))
        return torch.stack(views, 1)


class ANet(nn.Module):
    """Attributes of face windows: (B, 3, S, S) -> (B, tags) logits.

    Parameters
    ----------
    tags
        How many attributes.
    size
        Side S of a view, px.
    channels
        Of C1 to C4. Their kernels are 4, 3, 3 and 2; a largest value of 2 x 2 is taken after the first three.
    fc
        Numbers of FC, which are the features.
    grid
        Cells to a side in C3 and C4, each with its own filters; 1: filters shared everywhere, for loose windows.
    """

    def __init__(self, *, tags: int, size: int, channels: tuple[int, ...], fc: int, grid: int) -> None:
        super().__init__()
        if len(channels) != 4:
            raise OptionError("ANet has four convolutions", got=channels, expected="four numbers of channels")
        c1, c2, c3, c4 = channels
        self.size = size
        self.side = ((size - 3) // 2 - 2) // 2
        """Of C2's map after its pooling."""
        last = (self.side - 2) // 2 - 1
        if last < grid:
            raise OptionError("the views are too small", got=f"{size} px, a grid of {grid}", expected="larger ones")
        self.c1 = nn.Conv2d(3, c1, 4)
        self.c2 = nn.Conv2d(c1, c2, 3)
        self.c3 = LocallyShared(c2, c3, 3, grid=grid)
        self.c4 = LocallyShared(c3, c4, 2, grid=grid)
        self.fc = nn.Linear(c4 * last * last, fc)
        self.attr_head = nn.Linear(fc, tags)
        for layer in (self.c1, self.c2, self.fc):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, layer.bias))
        nn.init.normal_(self.attr_head.weight, std=0.01)
        nn.init.zeros_(self.attr_head.bias)

    def shared(self, x: Tensor) -> Tensor:
        """C2 after its pooling, of a view or of any larger window."""
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        return F.max_pool2d(F.relu(self.c2(x)), 2)

    def rest(self, c3: Tensor) -> Tensor:
        """FC (B, fc) of C3 before its ReLU."""
        x = F.relu(self.c4(F.max_pool2d(F.relu(c3), 2)))
        return F.relu(self.fc(x.flatten(1)))

    def features(self, x: Tensor) -> Tensor:
        """FC (B, fc) of views (B, 3, S, S), not negative."""
        if x.shape[1:] != (3, self.size, self.size):
            raise ShapeError(
                "views of ANet", got=tuple(x.shape), expected=(len(x), 3, self.size, self.size),
            )  # fmt: skip
        return self.rest(self.c3(self.shared(x)))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.attr_head(self.features(x)))

    def views(self, x: Tensor, places: tuple[tuple[int, int], ...]) -> Tensor:
        """FC (B, places, fc) of several views of larger windows (B, 3, H, W), by interwoven maps.

        Parameters
        ----------
        x
            Windows, at least S to a side.
        places
            Upper left corners (x, y) of the views, px, multiples of `SHRINK`.
        """
        room = (x.shape[3] - self.size, x.shape[2] - self.size)
        if any(at % SHRINK or not 0 <= at <= most for place in places for at, most in zip(place, room, strict=True)):
            raise ShapeError(
                "views that lie elsewhere", got=places, expected=f"multiples of {SHRINK}, at most {room} px"
            )
        cells = tuple((left // SHRINK, top // SHRINK) for left, top in places)
        c3 = self.c3.interwoven(self.shared(x), cells, self.side)
        return self.rest(c3.flatten(0, 1)).reshape(len(x), len(places), -1)


def anet(
    *,
    tags: int = 40,
    size: int = 64,
    channels: tuple[int, ...] = (20, 40, 60, 80),
    fc: int = 160,
    grid: int = 2,
) -> ANet:
    """0.5 M parameters, 13 MMAC at 64 px, those of C3 and C4 among them."""
    return ANet(tags=tags, size=size, channels=tuple(channels), fc=fc, grid=grid)


class Identified(nn.Module):
    """What ANet is pre-trained as: features (B, fc) and logits (B, people) of views. The attributes are left alone."""

    def __init__(self, network: ANet, *, people: int) -> None:
        super().__init__()
        self.network = network
        network.attr_head.requires_grad_(False)
        self.id_head = nn.Linear(network.fc.out_features, people)
        nn.init.normal_(self.id_head.weight, std=0.01)
        nn.init.zeros_(self.id_head.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.features(x)
        return features, self.id_head(features)


# ------------------------------------------------------------------------------------------- losses


def tag_loss(logits: Tensor, tags: Tensor) -> Tensor:
    """Sigmoid cross-entropy, summed over the tags of a picture and averaged over pictures; NaN is unknown.

    Parameters
    ----------
    logits, tags
        (B, k); tags are 0, 1, or NaN.
    """
    known = torch.isfinite(tags)
    each = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(tags), reduction="none")
    return (each * known).sum(1).mean()


def identity_loss(features: Tensor, logits: Tensor, people: Tensor, *, beta: float) -> tuple[Tensor, Tensor]:
    """Softmax over the people plus `beta` times the mean squared distance of two pictures of one person.

    Parameters
    ----------
    features, logits
        (B, d) and (B, people).
    people
        (B,) integers.
    beta
        Weight of the second term.

    Returns
    -------
    tuple of Tensor
        The loss, and its second term without `beta` (0 where nobody is shown twice).
    """
    same = torch.ones_like(people[:, None] == people[None, :]).triu(1) & (people[:, None] == people[None, :])
    squares_of = features.square().sum(1)
    gaps = squares_of[:, None] + squares_of[None, :] - 2 * features @ features.T
    alike = (gaps * same).sum() / same.sum().clamp_min(1)
    return F.cross_entropy(logits, people) + beta * alike, alike


def hinge_loss(decisions: Tensor, tags: Tensor) -> Tensor:
    """LIBLINEAR's squared hinge, summed over tags and averaged over pictures; NaN is unknown. Together with weight
    decay on the coefficients, ``lambda / 2 ||w||^2``, this is a linear SVM a tag, of ``C = 1 / (lambda n)``."""
    known = torch.isfinite(tags)
    signs = 2 * torch.nan_to_num(tags) - 1
    return ((1 - signs * decisions).clamp_min(0).square() * known).sum(1).mean()


# ------------------------------------------------------------------------------------------- the cascade


class Linear(nn.Module):
    """A linear classifier a tag on standardised features: (B, d) -> (B, tags) decisions, above 0 is yes."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, tags: int) -> None:
        super().__init__()
        self.coef = nn.Parameter(torch.randn(tags, dim) * 0.01)
        self.intercept = nn.Parameter(torch.zeros(tags))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def standardise(self, features: Tensor) -> None:
        """Takes mean and deviation from features (n, d); numbers that never change keep a deviation of 1."""
        std = features.std(0, correction=0)
        self.mean.copy_(features.mean(0))
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, features: Tensor) -> Tensor:
        return F.linear((features - self.mean) / self.std, self.coef, self.intercept)


@dataclass(frozen=True)
class Read:
    """What the cascade tells of each picture.

    Parameters
    ----------
    tags : (B, tags)
        Decisions, above 0 is yes.
    head, face : (B, 4)
        The windows of LNet_o and LNet_s, xyxy px of the picture.
    scores : (B,)
        Of the face window, in units of LNet_s's response.
    peaks : (B, 2)
        Where LNet_o answers most, x, y px.
    """

    tags: Tensor
    head: Tensor
    face: Tensor
    scores: Tensor
    peaks: Tensor


class HeadReader(nn.Module):
    """From head and shoulders to tags, LNet_o left out: (B, 3, H, H) -> (B, tags) decisions.

    Parameters
    ----------
    lnet_s, anet
        The networks.
    size
        Side at which LNet_s looks, px.
    spread
        By how much the farthest views are shifted against each other, px: a multiple of twice `SHRINK`; 0: one view.
    flip
        Whether mirror images of the views are read too.
    join
        "concat" puts the features of the views one behind the other, "mean" averages them.
    """

    def __init__(self, lnet_s: LNet, anet: ANet, *, size: int, spread: int, flip: bool, join: Join) -> None:
        super().__init__()
        if spread < 0 or spread % (2 * SHRINK):
            raise OptionError("views share their maps where they fit", got=spread, expected=f"0, {2 * SHRINK}, …")
        if join not in ("concat", "mean"):
            raise OptionError.unknown("unknown way to join views", join, ("concat", "mean"))
        self.lnet_s, self.anet = lnet_s, anet
        self.size, self.spread, self.flip, self.join = size, spread, flip, join
        half = spread // 2
        self.places: tuple[tuple[int, int], ...] = (
            ((half, half), (0, 0), (spread, 0), (0, spread), (spread, spread)) if spread else ((0, 0),)
        )
        dim = anet.fc.out_features * (1 if join == "mean" else len(self.places) * (2 if flip else 1))
        self.svm = Linear(dim, anet.attr_head.out_features)

    def faces(self, crops: Tensor) -> Windows:
        """LNet_s's windows in crops (B, 3, H, H), px of the crop."""
        side = crops.shape[2]
        small = _resized(crops, self.size)
        found = best_windows(self.lnet_s, small, sides=FACE_SIDES)
        factor = side / self.size
        return Windows(found.boxes * factor, found.scores, found.peaks * factor)

    def views(self, images: Tensor, faces: Tensor) -> Tensor:
        """What ANet sees of face windows (B, 4) px: (B, 3, S + spread, S + spread)."""
        grow = MARGIN * (self.anet.size + self.spread) / self.anet.size
        return cut(images, squares(faces, grow=grow), self.anet.size + self.spread)

    def features(self, windows: Tensor) -> Tensor:
        """Joined features (B, d) of what `views` gives."""
        parts = self.anet.views(windows, self.places)
        if self.flip:
            parts = torch.cat([parts, self.anet.views(windows.flip(3), self.places)], 1)
        return parts.mean(1) if self.join == "mean" else parts.flatten(1)

    def forward(self, crops: Tensor) -> Tensor:
        return cast(Tensor, self.svm(self.features(self.views(crops, self.faces(crops).boxes))))


class Cascade(HeadReader):
    """The whole of it: pictures (B, 3, H, W) of any size -> `Read`. No box, no landmark, no detector.

    Parameters
    ----------
    lnet_o
        Finds head and shoulders in the whole picture.
    lnet_s, anet, size, spread, flip, join
        See `HeadReader`; LNet_o looks at the same side, which the longer side of the picture is brought to.
    """

    def __init__(
        self, lnet_o: LNet, lnet_s: LNet, anet: ANet, *, size: int, spread: int, flip: bool, join: Join
    ) -> None:
        super().__init__(lnet_s, anet, size=size, spread=spread, flip=flip, join=join)
        self.lnet_o = lnet_o

    def heads(self, images: Tensor) -> Windows:
        """LNet_o's windows in pictures (B, 3, H, W), px of the picture."""
        height, width = images.shape[2:]
        side = max(height, width)
        square = F.pad(images, (0, side - width, 0, side - height))
        small = _resized(square, self.size)
        within = (width / side, height / side)
        found = best_windows(self.lnet_o, small, sides=HEAD_SIDES, within=within)
        factor = side / self.size
        return Windows(found.boxes * factor, found.scores, found.peaks * factor)

    def windows(self, images: Tensor) -> tuple[Windows, Windows]:
        """The windows of both LNets, px of the pictures (B, 3, H, W)."""
        heads = self.heads(images)
        around = squares(heads.boxes, grow=GROW)
        inside = self.faces(cut(images, around, self.size))
        scale = (around[:, 2:] - around[:, :2]) / self.size
        boxes = inside.boxes * scale.repeat(1, 2) + around[:, :2].repeat(1, 2)
        return heads, Windows(boxes, inside.scores, inside.peaks * scale + around[:, :2])

    def forward(self, images: Tensor) -> Read:  # type: ignore[override]
        heads, faces = self.windows(images)
        tags = self.svm(self.features(self.views(images, faces.boxes)))
        return Read(tags=tags, head=heads.boxes, face=faces.boxes, scores=faces.scores, peaks=heads.peaks)


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def head_reader(
    *,
    tags: int = 40,
    variant: str = "alexnet",
    width: float = 1.0,
    pool: Pool = "max",
    size: int = 227,
    anet_size: int = 64,
    channels: tuple[int, ...] = (20, 40, 60, 80),
    fc: int = 160,
    grid: int = 2,
    spread: int = 8,
    flip: bool = True,
    join: Join = "concat",
) -> HeadReader:
    """LNet_s, ANet and the linear classifiers, for a crop of head and shoulders. LNet_s and ANet's own answers have
    stages of training of their own, and are frozen here."""
    face = LNet(tags=tags, variant=variant, width=width, pool=pool).requires_grad_(False)
    reads = anet(tags=tags, size=anet_size, channels=channels, fc=fc, grid=grid)
    reads.attr_head.requires_grad_(False)
    return HeadReader(face, reads, size=size, spread=spread, flip=flip, join=join)


def cascade(
    *,
    tags: int = 40,
    variant: str = "alexnet",
    width: float = 1.0,
    pool: Pool = "max",
    size: int = 227,
    anet_size: int = 64,
    channels: tuple[int, ...] = (20, 40, 60, 80),
    fc: int = 160,
    grid: int = 2,
    spread: int = 8,
    flip: bool = True,
    join: Join = "concat",
) -> Cascade:
    """Both LNets, ANet and the linear classifiers; the LNets and ANet's own answers are frozen, see `head_reader`."""
    head, face = (LNet(tags=tags, variant=variant, width=width, pool=pool).requires_grad_(False) for _ in range(2))
    reads = anet(tags=tags, size=anet_size, channels=channels, fc=fc, grid=grid)
    reads.attr_head.requires_grad_(False)
    return Cascade(head, face, reads, size=size, spread=spread, flip=flip, join=join)


def attribute_figures(decisions: Tensor, tags: Tensor) -> dict[str, float]:
    """Mean over the tags of their accuracy, and of the mean of their two recalls ("balanced").

    The first is the paper's figure, which always saying the commoner answer does not lose much of; the second is not
    fooled by that. Tags that nobody knows are left out; of those that are all alike in truth, the second figure too.

    Parameters
    ----------
    decisions, tags
        (n, k); above 0 is yes; tags are 0, 1 or NaN.
    """
    known = torch.isfinite(tags)
    truth, said = torch.nan_to_num(tags) > 0.5, decisions > 0
    right = (truth == said) & known
    counts = known.sum(0)
    accuracy = (right.sum(0) / counts.clamp_min(1))[counts > 0]
    yes, no = (truth & known).sum(0), (~truth & known).sum(0)
    both = (yes > 0) & (no > 0)
    recalls = (right & truth).sum(0) / yes.clamp_min(1) + (right & ~truth).sum(0) / no.clamp_min(1)
    figures = {"accuracy": float(accuracy.mean()) if len(accuracy) else 0.0}
    return figures | ({"balanced": float(recalls[both].mean() / 2)} if bool(both.any()) else {"balanced": 0.0})
