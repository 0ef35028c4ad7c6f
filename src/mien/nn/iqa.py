"""No-reference image quality of pictures, as networks that stand before other networks; higher is better but for one.

    cnniqa      CNN-IQA (Kang, Ye, Li, Doermann, "Convolutional Neural Networks for No-Reference Image Quality
                Assessment", CVPR 2014); wants a file of weights, about 0 to 1
    brisque     BRISQUE (Mittal, Moorthy, Bovik, "No-Reference Image Quality Assessment in the Spatial Domain", IEEE
                TIP 21(12), 2012); wants the two files of its support vector regression, about 0 to 100, LOWER is better
    sharpness   how much detail a second blur takes away (Crete, Dolmiere, Ladret, Nicolas, SPIE 6492, 2007); 0 to 1
    gradient    mean squared difference of neighbours after averaging over 2 x 2 pixels; 0 to 0.5, mostly below 0.02

All take (B, 3, H, W) RGB from 0 to 1 and give (B,). The last two need no file. `QualityWeight` turns a score into the
weight alpha of twin adapters (`mien.nn.lora`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, ShapeError, WeightsUnavailable

__all__ = [
    "BRISQUE", "CNNIQA", "QUALITIES", "Gradient", "Quality", "QualityWeight", "Sharpness", "brisque_features",
    "brisque_from_files", "build_quality", "cnniqa_from_file", "convert_cnniqa", "luma",
]  # fmt: skip

Quality = Literal["cnniqa", "brisque", "sharpness", "gradient"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)


def luma(images: Tensor) -> Tensor:
    """Luma (B, 1, H, W) of ITU-R BT.601, in the unit of the RGB pictures (B, 3, H, W)."""
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


# ------------------------------------------------------------------------------------------- CNN-IQA


class CNNIQA(nn.Module):
    """CNN-IQA: one convolution of 50 kernels of 7 x 7, the largest and the smallest of each, two hidden layers.

    Parameters
    ----------
    channels
        1: the paper's. Grey pictures of 0 to 255 are normalised locally and cut into patches of 32 px that do not
        overlap; the score is the mean of theirs. 3: the layout that pyiqa hands around, which sees the whole RGB
        picture of 0 to 1 at once.
    kernels, size, hidden
        50 kernels of 7 x 7, 800 numbers in each hidden layer.
    """

    PATCH = 32

    def __init__(self, *, channels: int = 3, kernels: int = 50, size: int = 7, hidden: int = 800) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise OptionError("CNN-IQA sees grey or colour", got=channels, expected="1 or 3 channels")
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, kernels, size)
        self.fc1 = nn.Linear(2 * kernels, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B,) of (B, 3, H, W) RGB from 0 to 1."""
        if self.channels == 3:
            return self.scores(images)
        grey = local_contrast(255 * luma(images))
        side = self.PATCH
        if min(grey.shape[2:]) < side:
            raise ShapeError("CNN-IQA cuts patches", got=tuple(images.shape), expected=f"sides of at least {side} px")
        patches = grey.unfold(2, side, side).unfold(3, side, side)
        scores = self.scores(patches.reshape(-1, 1, side, side))
        return scores.reshape(images.shape[0], -1).mean(1)

    def scores(self, x: Tensor) -> Tensor:
        """Scores (B,) of what the convolution sees, (B, channels, H, W)."""
        maps = self.conv1(x)
        pooled = torch.cat([maps.amax((2, 3)), maps.amin((2, 3))], 1)
        # The paper drops out at the second hidden layer's input.
        hidden = F.relu(self.fc2(self.dropout(F.relu(self.fc1(pooled)))))
        return cast(Tensor, self.fc3(hidden)[:, 0])


def local_contrast(grey: Tensor, *, radius: int = 3, constant: float = 10.0) -> Tensor:
    """Local normalisation (Kang et al., equation 1): (I - mean) / (deviation + C) in windows of 2 radius + 1 pixels."""
    side = 2 * radius + 1
    padded = F.pad(grey, (radius,) * 4, mode="replicate")
    mean = F.avg_pool2d(padded, side, 1)
    variance = F.avg_pool2d(padded.square(), side, 1) - mean.square()
    return (grey - mean) / (variance.clamp(min=0).sqrt() + constant)


def convert_cnniqa(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `CNNIQA` from a public checkpoint; what is unknown or missing is an error.

    Parameters
    ----------
    state
        ``conv1``, ``fc1``, ``fc2``, ``fc3``, each ``weight`` and ``bias``; also inside of ``params`` or ``state_dict``.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown or of another shape.
    """
    for wrapping in ("params", "state_dict"):
        if isinstance(inner := state.get(wrapping), Mapping):
            state = inner
    tensors = {name.removeprefix("module."): torch.as_tensor(value) for name, value in state.items()}
    kernel = tensors.get("conv1.weight")
    channels = kernel.shape[1] if kernel is not None and kernel.ndim == 4 and kernel.shape[1] in (1, 3) else 3
    with torch.device("meta"):
        expected = {name: value.shape for name, value in CNNIQA(channels=channels).state_dict().items()}
    wrong = sorted(name for name in tensors.keys() | expected.keys()
                   if name not in tensors or tensors[name].shape != expected.get(name))  # fmt: skip
    if wrong:
        raise CheckpointError(
            "the checkpoint is not one of CNN-IQA",
            got=", ".join(f"{k} {tuple(tensors[k].shape) if k in tensors else 'missing'}" for k in wrong[:5]),
            expected=", ".join(f"{k} {tuple(expected[k]) if k in expected else 'absent'}" for k in wrong[:5]),
        )
    return {name: tensors[name].float() for name in expected}


def cnniqa_from_file(file: str | Path) -> CNNIQA:
    """CNN-IQA with the weights of a public checkpoint (``.pth`` or ``.safetensors``), read without running its code.

    Raises
    ------
    CheckpointError
        The file cannot be read, or holds something else.
    """
    path = Path(file)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError … for what it refuses
        raise CheckpointError(
            f"{path} cannot be read", got=str(error).partition("\n")[0], expected="a checkpoint of CNN-IQA"
        ) from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} holds no state dict", got=type(found).__name__, expected="tensors by name")
    state = convert_cnniqa(found)
    network = CNNIQA(channels=state["conv1.weight"].shape[1])
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------- BRISQUE

FEATURES = 36
SHAPES: NDArray[np.float64] = np.arange(200, 10_001) / 1000
"""Shapes of generalised Gaussians that are looked up, 0.2 to 10."""


@functools.lru_cache(maxsize=1)
def _ratios() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(mean |x|)^2 / mean x^2 of a generalised Gaussian, and its reverse, for each of `SHAPES`."""
    from scipy.special import gammaln

    log = 2 * gammaln(2 / SHAPES) - gammaln(1 / SHAPES) - gammaln(3 / SHAPES)
    return np.exp(log), np.exp(-log)


def mscn(grey: Tensor) -> Tensor:
    """Mean-subtracted, contrast-normalised coefficients of (B, 1, H, W) of 0 to 255 (Mittal et al., equations 1 to 3).

    The window is a Gaussian of 7 x 7 with a deviation of 7/6; the constant is 1.
    """
    ticks = torch.arange(-3, 4, dtype=grey.dtype, device=grey.device)
    window = torch.exp(-ticks.square() / (2 * (7 / 6) ** 2))
    window = window / window.sum()
    kernel = (window[:, None] * window[None, :])[None, None]
    # Zeros outside, as the reference implementation has it.
    mean = F.conv2d(grey, kernel, padding=3)
    variance = F.conv2d(grey.square(), kernel, padding=3) - mean.square()
    return (grey - mean) / (variance.abs().sqrt() + 1)


def _nearest(table: NDArray[np.float64], wanted: Tensor) -> Tensor:
    """Index (…) of the entry of a monotone table that is nearest to each wanted number."""
    values = torch.as_tensor(table, dtype=wanted.dtype, device=wanted.device)
    if table[0] > table[-1]:
        return len(table) - 1 - _nearest(table[::-1].copy(), wanted)
    above = (wanted[..., None] > values).sum(-1).clamp(1, len(table) - 1)
    below = above - 1
    return torch.where((wanted - values[below]) <= (values[above] - wanted), below, above)


def _ggd(x: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and variance (B,) of a symmetric generalised Gaussian of the numbers (B, n), by moments."""
    variance = x.square().mean(1)
    mean = x.abs().mean(1).clamp(min=1e-12)
    index = _nearest(_ratios()[1], variance / mean.square())
    return torch.as_tensor(SHAPES, dtype=x.dtype, device=x.device)[index], variance


def _aggd(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shape, mean, left and right variance (B,) of an asymmetric one (Lasmar et al., 2009)."""
    left, right = x < 0, x > 0
    square = x.square()

    def of(side: Tensor) -> Tensor:
        return ((square * side).sum(1) / side.sum(1).clamp(min=1)).clamp(min=1e-12).sqrt()

    low, high = of(left), of(right)
    skew = low / high
    ratio = x.abs().mean(1).square() / square.mean(1).clamp(min=1e-12)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew.square() + 1).square()
    index = _nearest(_ratios()[0], ratio)
    shape = torch.as_tensor(SHAPES, dtype=x.dtype, device=x.device)[index]
    # (high - low) gamma(2 / a) / gamma(1 / a) sqrt(gamma(1 / a) / gamma(3 / a)) is this root of the table's own ratio.
    root = torch.as_tensor(np.sqrt(_ratios()[0]), dtype=x.dtype, device=x.device)[index]
    mean = (high - low) * root
    return shape, mean, low.square(), high.square()


SHIFTS = ((0, 1), (1, 0), (1, 1), (-1, 1))
"""Neighbours that are multiplied: right, below, and both diagonals."""


def brisque_features(images: Tensor) -> Tensor:
    """The 36 features (B, 36) of BRISQUE of RGB pictures (B, 3, H, W) from 0 to 1.

    On the picture and on one of half its size: shape and variance of the coefficients' distribution, and for the
    products of neighbours in four directions, shape, mean, left and right variance of theirs.

    Raises
    ------
    ShapeError
        A side has fewer than 16 pixels.
    """
    if min(images.shape[2:]) < 16:
        raise ShapeError("BRISQUE needs a larger picture", got=tuple(images.shape), expected="sides of at least 16 px")
    grey = (255 * luma(images)).round()
    parts: list[Tensor] = []
    for scale in range(2):
        if scale:
            grey = F.interpolate(grey, scale_factor=0.5, mode="bicubic", antialias=True)
        x = mscn(grey)[:, 0]
        parts += _ggd(x.flatten(1))
        for down, right in SHIFTS:
            other = torch.roll(x, (down, right), (1, 2))
            parts += _aggd((x * other).flatten(1))
    return torch.stack(parts, 1)


class BRISQUE(nn.Module):
    """BRISQUE: the features, brought to -1 … 1, and a support vector regression with a Gaussian kernel on them.

    Parameters
    ----------
    vectors
        Number of support vectors. The numbers come from a file (`brisque_from_files`) or a state dict.
    """

    low: Tensor
    high: Tensor
    support: Tensor
    coefficients: Tensor
    gamma: Tensor
    offset: Tensor

    def __init__(self, *, vectors: int = 774) -> None:
        super().__init__()
        for name, shape in {"low": (FEATURES,), "high": (FEATURES,), "support": (vectors, FEATURES),
                            "coefficients": (vectors,), "gamma": (), "offset": ()}.items():  # fmt: skip
            self.register_buffer(name, torch.zeros(shape))
        self.high.fill_(1.0)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B,), about 0 to 100, of (B, 3, H, W) RGB from 0 to 1; lower is better."""
        scaled = 2 * (brisque_features(images) - self.low) / (self.high - self.low) - 1
        # Not by a product of matrices: the difference of large numbers would lose what the kernel looks at.
        distance = (scaled[:, None, :] - self.support).square().sum(2)
        return torch.exp(-self.gamma * distance) @ self.coefficients - self.offset


def brisque_from_files(model: str | Path, ranges: str | Path) -> BRISQUE:
    """BRISQUE with the regression of the user's two files, in LIBSVM's text formats.

    Parameters
    ----------
    model
        Of a regression with a Gaussian kernel (``svm_type epsilon_svr`` or ``nu_svr``, ``kernel_type rbf``), such as
        ``allmodel`` of the authors' release.
    ranges
        Of ``svm-scale``, to -1 … 1, such as ``allrange``.

    Raises
    ------
    CheckpointError
        A file cannot be read, or is of another kind.
    """
    head, support, coefficients = _libsvm(Path(model))
    network = BRISQUE(vectors=len(support))
    low, high = _ranges(Path(ranges))
    for name, value in (("support", support), ("coefficients", coefficients), ("low", low), ("high", high)):
        network.get_buffer(name).copy_(torch.as_tensor(value))
    network.gamma.fill_(float(head["gamma"]))
    network.offset.fill_(float(head["rho"]))
    return network.eval()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read", got=error, expected="a text file of LIBSVM") from error


def _libsvm(path: Path) -> tuple[dict[str, str], NDArray[np.float64], NDArray[np.float64]]:
    lines = _lines(path)
    try:
        start = next(i for i, line in enumerate(lines) if line.strip() == "SV")
        head = dict(line.strip().split(maxsplit=1) for line in lines[:start])
        rows = [line.split() for line in lines[start + 1 :] if line.strip()]
        support = np.zeros((len(rows), FEATURES))
        coefficients = np.array([float(row[0]) for row in rows])
        for values, row in zip(support, rows, strict=True):
            for item in row[1:]:
                index, _, value = item.partition(":")
                if int(index) < 1:
                    raise IndexError(index)
                values[int(index) - 1] = float(value)
        right = head["kernel_type"] == "rbf" and head["svm_type"] in ("epsilon_svr", "nu_svr")
        if not right or len(rows) != int(head["total_sv"]) or not all(key in head for key in ("gamma", "rho")):
            raise ValueError(head)
    except (StopIteration, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(
            f"{path} is no regression of BRISQUE's features",
            got=repr(error),
            expected=f"a model file of LIBSVM: svm_type epsilon_svr, kernel_type rbf, {FEATURES} features",
        ) from error
    return head, support, coefficients


def _ranges(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lines = [line.split() for line in _lines(path) if line.strip()]
    try:
        if lines[0] != ["x"] or [float(v) for v in lines[1]] != [-1.0, 1.0]:
            raise ValueError(lines[:2])
        table = np.array([[float(value) for value in line] for line in lines[2:]])
        if table.shape != (FEATURES, 3) or (table[:, 0] != np.arange(1, FEATURES + 1)).any():
            raise ValueError(table.shape)
        if (table[:, 2] <= table[:, 1]).any():
            raise ValueError("an empty range")
    except (ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path} holds no ranges of BRISQUE's features",
            got=repr(error),
            expected=f"a file of svm-scale: x, then -1 1, then number, least and largest of {FEATURES} features",
        ) from error
    return table[:, 1], table[:, 2]


# ------------------------------------------------------------------------------------------- without weights


class Sharpness(nn.Module):
    """Share of the differences between neighbours that a second blur takes away, 0 (blurred) to 1.

    The blur is a mean over nine pixels along each axis, and the blurrier axis counts. Contrast does not matter. Faces
    of LFW at 112 px have 0.50 +- 0.06, enlarged from 28 px 0.22, from 14 px 0.09, from 7 px 0.03.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B,) of (B, 3, H, W) RGB from 0 to 1."""
        grey = 255 * luma(images)
        lost = []
        for axis in (2, 3):
            pad = (0, 0, 4, 4) if axis == 2 else (4, 4, 0, 0)
            kernel = (9, 1) if axis == 2 else (1, 9)
            blurred = F.avg_pool2d(F.pad(grey, pad, mode="replicate"), kernel, 1)
            # Steps of one level are rounding.
            before = (grey.diff(dim=axis).abs() - 1).clamp(min=0)
            after = blurred.diff(dim=axis).abs()
            total = before.sum((1, 2, 3))
            lost.append((before - after).clamp(min=0).sum((1, 2, 3)) / total.clamp(min=1e-6))
        return torch.minimum(*lost)


class Gradient(nn.Module):
    """Mean squared difference of neighbours in luma, after averaging over 2 x 2 pixels: noise counts little."""

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B,) of (B, 3, H, W) RGB from 0 to 1."""
        small = F.avg_pool2d(luma(images), 2)
        return 0.5 * (small.diff(dim=2).square().mean((1, 2, 3)) + small.diff(dim=3).square().mean((1, 2, 3)))


def build_quality(kind: Quality, *, vectors: int = 774, channels: int = 3) -> nn.Module:
    """The network of a score by name, without the numbers of a file.

    Parameters
    ----------
    kind
        One of `QUALITIES`.
    vectors
        Of BRISQUE's regression.
    channels
        Of CNN-IQA.

    Raises
    ------
    OptionError
        There is no such score.
    """
    kinds: dict[str, Callable[[], nn.Module]] = {
        "cnniqa": lambda: CNNIQA(channels=channels),
        "brisque": lambda: BRISQUE(vectors=vectors),
        "sharpness": Sharpness,
        "gradient": Gradient,
    }
    if kind not in kinds:
        raise OptionError.unknown("unknown quality score", kind, kinds)
    return kinds[kind]()


def quality_from_files(kind: Quality, *files: str | Path) -> nn.Module:
    """The network of a score with the numbers of its files, frozen.

    Parameters
    ----------
    kind
        One of `QUALITIES`.
    *files
        "cnniqa": its weights. "brisque": model and ranges. The others take none.

    Raises
    ------
    WeightsUnavailable
        The score needs files that were not given.
    OptionError
        There is no such score, or it takes no files.
    CheckpointError
        A file is not what it should be.
    """
    network = build_quality(kind)
    needed = {"cnniqa": 1, "brisque": 2}.get(kind, 0)
    if len(files) < needed:
        told = {
            "cnniqa": "the weights of CNN-IQA in pyiqa's layout (conv1, fc1, fc2, fc3)",
            "brisque": "the model and the ranges of its regression, in LIBSVM's formats (allmodel, allrange)",
        }[kind]
        raise WeightsUnavailable(
            f"the quality score {kind} needs files that do not come with mien",
            got=f"{len(files)} files",
            expected=told,
            hint="bring them, or take a score without weights: sharpness or gradient",
        )
    if len(files) > needed:
        raise OptionError(f"the quality score {kind} takes {needed or 'no'} files", got=[str(file) for file in files])
    if kind == "cnniqa":
        return cnniqa_from_file(files[0])
    return brisque_from_files(files[0], files[1]) if kind == "brisque" else network.eval()


# ------------------------------------------------------------------------------------------- alpha


class QualityWeight(nn.Module):
    """The weight of twin adapters: alpha = 0.5 + gain (q - threshold), q a picture's quality (Narayan et al., 2025).

    Parameters
    ----------
    score
        Gives q (B,) of pictures from 0 to 1.
    threshold
        Quality at which both branches count the same.
    gain
        1 in the paper. Of scores of another unit, `centred` finds one.
    clamp
        Whether alpha is held in 0 … 1; the paper does not.
    mean, std
        Channel values of 0 … 255 that `forward` finds as ``(x - mean) / std``.
    official_input
        Whether the score sees those normalised values instead of 0 … 1, as in the authors' code.
    """

    threshold: Tensor
    gain: Tensor

    def __init__(
        self, score: nn.Module, *, threshold: float = 0.5, gain: float = 1.0, clamp: bool = False, mean: float = 127.5,
        std: float = 127.5, official_input: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.score, self.clamp, self.official_input = score, clamp, official_input
        self.mean, self.std = mean, std
        self.register_buffer("threshold", torch.tensor(float(threshold)))
        self.register_buffer("gain", torch.tensor(float(gain)))

    def quality(self, images: Tensor) -> Tensor:
        """q (B,) of pictures (B, 3, H, W) as the recogniser sees them."""
        seen = images if self.official_input else ((images * self.std + self.mean) / 255).clamp(0, 1)
        return cast(Tensor, self.score(seen.float()))

    def alpha(self, quality: Tensor) -> Tensor:
        """alpha (B, 1) of q (B,)."""
        alpha = 0.5 + self.gain * (quality - self.threshold)
        return (alpha.clamp(0, 1) if self.clamp else alpha)[:, None]

    def forward(self, images: Tensor) -> Tensor:
        """alpha (B, 1) of pictures (B, 3, H, W) as the recogniser sees them."""
        return self.alpha(self.quality(images))

    def centre(self, quality: Tensor | NDArray[Any], *, standardise: bool = False) -> None:
        """Takes the threshold, and if wanted the gain, from the qualities (n,) of a set.

        The threshold becomes their mean, so that alpha is 0.5 on average. With `standardise` the gain becomes a quarter
        of their standard deviation's inverse, so that two deviations span 0 … 1, whatever the score's unit.

        Raises
        ------
        OptionError
            All pictures are of the same quality: there is nothing to mix by.
        """
        q = torch.as_tensor(quality).double()
        spread = float(q.std(unbiased=False)) if len(q) else 0.0
        if standardise and not spread > 1e-9 * max(1.0, float(q.abs().max()) if len(q) else 0.0):
            raise OptionError("all pictures have the same quality", got=f"deviation {spread:.2g} of {len(q)}")
        self.threshold.fill_(float(q.mean()))
        if standardise:
            self.gain.fill_(0.25 / spread)


def usual_gain(kind: Quality, *, official: bool = False) -> float:
    """1; of BRISQUE 0.01, since its 0 … 100 would give alphas of tens (``official=True``: 1, as the authors' code)."""
    return 0.01 if kind == "brisque" and not official else 1.0
