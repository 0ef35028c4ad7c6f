"""What the small experiments share: a network of four convolutions, a training of it in memory, and its figures.

The recipes of `mien.train` read files, resume and run on several machines. An experiment of a minute needs none of
that: its pictures lie in memory and are drawn by a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture
from mien.nn.inputs import to_input

Told = Callable[[float, float | None, str], None]


class FourConvolutions(nn.Sequential):
    """(B, 3, S, S) -> (B, dim): four 3 x 3 convolutions of stride 2 with batch normalisation, mean, linear."""

    def __init__(self, *, dim: int, width: float) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for wide in (32, 64, 128, 256):
            wide = round(wide * width)
            layers += [nn.Conv2d(channels, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
            channels = wide
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, dim))


def four_convolutions(*, dim: int = 128, width: float = 1.0) -> FourConvolutions:
    """The small experiments' network: 0.03 GMAC at 56 px, 0.01 at 32 px."""
    return FourConvolutions(dim=dim, width=width)


def fit_in_memory(
    crops: Picture,
    labels: NDArray[np.int64],
    loss: Callable[[Tensor, Tensor], Tensor],
    parameters: Iterable[nn.Parameter],
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    optimiser: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "cosine",
    flip: bool = True,
    clip: float = 0.0,
    device: str = "cpu",
    told: Told | None = None,
    what: str = "training",
) -> None:
    """Trains on crops that lie in memory, in the order of a permutation that is new in each epoch.

    Parameters
    ----------
    crops
        (n, S, S, 3) uint8.
    labels
        (n,) int64.
    loss
        Of a batch: images (B, 3, S, S) as networks want them, and labels (B,); a scalar. It runs the network, which
        must be in the mode it is to be trained in, on `device`.
    parameters
        Those that are trained.
    steps, batch
        Number of steps, and of crops in each; the last ones of an epoch that fill no batch are left out.
    lr, momentum, weight_decay
        Of the optimiser, "sgd" or "adamw" (which has no momentum to set).
    seed
        Of order and mirroring.
    schedule
        "cosine" falls to 0 at the end; "constant".
    flip
        Whether half of the crops are mirrored.
    clip
        Largest norm of the gradient; 0: any.
    device
        Where `loss` wants its tensors.
    told, what
        Called as ``told(steps done, steps, what)``.
    """
    rng = np.random.default_rng([seed, 17])
    trained = [p for p in parameters if p.requires_grad]
    if optimiser == "sgd":
        update: torch.optim.Optimizer = torch.optim.SGD(trained, lr, momentum=momentum, weight_decay=weight_decay)
    else:
        update = torch.optim.AdamW(trained, lr, weight_decay=weight_decay)
    factor = (lambda s: 0.5 * (1 + math.cos(math.pi * s / steps))) if schedule == "cosine" else (lambda s: 1.0)
    falling = torch.optim.lr_scheduler.LambdaLR(update, factor)
    batch = min(batch, len(crops))
    order = np.empty(0, np.int64)
    for step in range(steps):
        if len(order) < batch:
            order = rng.permutation(len(crops))
        rows, order = order[:batch], order[batch:]
        some = crops[rows]
        if flip:
            mirrored = rng.random(len(rows)) < 0.5
            some[mirrored] = some[mirrored, :, ::-1]
        update.zero_grad(set_to_none=True)
        images = to_input(torch.from_numpy(some)).to(device)
        value = loss(images, torch.from_numpy(labels[rows]).to(device))
        value.backward()  # type: ignore[no-untyped-call]
        if clip:
            nn.utils.clip_grad_norm_(trained, clip)
        update.step()
        falling.step()
        if told is not None and step % 10 == 0:
            told(step, steps, f"{what}, loss {value.item():.3f}")


def vectors(network: Callable[[Tensor], Tensor], crops: Picture, *, device: str = "cpu") -> NDArray[np.float32]:
    """Unit vectors (n, d) of crops (n, S, S, 3) uint8; a network must be in eval mode."""
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(crops), 128):
            images = to_input(torch.from_numpy(np.ascontiguousarray(crops[start : start + 128])))
            parts.append(F.normalize(network(images.to(device)).float(), dim=1).cpu())
    return torch.cat(parts).numpy()


def figures(query: NDArray[np.float32], gallery: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    """VAL at FAR 1e-3 and AUC of all pairs of two pictures, unit vectors `query` against those of `gallery`."""
    from mien.train.recipes.triplet import compared

    found = compared(query, gallery, labels)
    return found["val"], found["auc"]
