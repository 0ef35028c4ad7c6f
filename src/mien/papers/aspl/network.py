"""The network whose features are classified: AlexNet as Caffe has it, and any other with a layer over the persons.

Either has `features` (B, d), what the SVMs see, and `fc8`, a linear layer with a row a person, which fine-tuning
trains by a softmax and which follows the number of persons (`resize_classes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, ShapeError

MEAN_BGR = (104.007, 116.669, 122.679)
"""Mean of ImageNet's pixels by channel, for who has no mean picture of their own."""
CROP, SIDE = 227, 256

INIT: dict[str, tuple[float, float]] = {
    "conv1": (0.01, 0.0), "conv2": (0.01, 0.1), "conv3": (0.01, 0.0), "conv4": (0.01, 0.1), "conv5": (0.01, 0.1),
    "fc6": (0.005, 0.1), "fc7": (0.005, 0.1), "fc8": (0.01, 0.0),
}  # fmt: skip
"""Standard deviation of a layer's first weights, and its first biases, as Caffe's AlexNet starts."""


class Classified(nn.Module):
    """A network of features (B, d), and `fc8` on it: (B, …) -> (B, persons).

    Parameters
    ----------
    network
        Gives features.
    dim
        Their number d.
    classes
        Persons, at least 1.
    """

    def __init__(self, network: nn.Module, *, dim: int, classes: int) -> None:
        super().__init__()
        self.network = network
        self.fc8 = nn.Linear(dim, classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, d)."""
        return cast(Tensor, self.network(x))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc8(self.features(x)))

    def resize_classes(self, count: int, kept: Sequence[int] | None = None) -> None:
        """`fc8` for `count` persons: the first rows are the present ones of `kept`, the others start anew.

        -1 in `kept` stands for a row that starts anew too. Default: the present rows, as far as they go.
        """
        old = self.fc8
        kept = list(range(min(count, old.out_features))) if kept is None else list(kept)
        if count < 1 or len(kept) > count or any(not -1 <= row < old.out_features for row in kept):
            raise OptionError(
                "the layer over the persons cannot be made so", got=f"{count} persons of rows {kept}",
                expected=f"at least one, and rows below {old.out_features}",
            )  # fmt: skip
        fresh = nn.Linear(old.in_features, count).to(old.weight)
        with torch.no_grad():
            nn.init.normal_(fresh.weight, std=INIT["fc8"][0])
            nn.init.zeros_(fresh.bias)
            for new, row in enumerate(kept):
                if row >= 0:
                    fresh.weight[new], fresh.bias[new] = old.weight[row], old.bias[row]
        self.fc8 = fresh


class AlexNet(Classified):
    """AlexNet with two groups and local response normalisation: (B, 3, S, S) BGR less the mean -> (B, persons).

    Layers bear Caffe's names, so that blobs of Caffe's models fit (`start_from`). Features are those of fc7 after ReLU:
    not negative, many of them zero, not normalised.

    Parameters
    ----------
    classes
        Persons.
    width
        Factor on the channels of convolutions, which stay even.
    hidden
        Units of fc6 and fc7.
    size
        Side S of the input in pixels, at least 67.
    init
        "caffe", see `INIT`; "he" for narrow networks, in which Caffe's small weights let the signal fade.
    """

    def __init__(self, *, classes: int, width: float, hidden: int, size: int, init: str) -> None:
        if size < 67:
            raise OptionError("the input is too small for three poolings", got=size, expected="at least 67 px")
        if init not in ("caffe", "he"):
            raise OptionError.unknown("unknown first weights", init, ("caffe", "he"))
        c1, c2, c3, c4, c5 = (max(2, 2 * round(c * width / 2)) for c in (96, 256, 384, 384, 256))
        side = size
        for kernel, stride in ((11, 4), (3, 2), (3, 2), (3, 2)):
            side = (side - kernel) // stride + 1 if kernel == 11 else -(-(side - kernel) // stride) + 1
        super().__init__(nn.Identity(), dim=hidden, classes=classes)
        self.size, self.init = size, init
        self.conv1 = nn.Conv2d(3, c1, 11, 4)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(c5 * side * side, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        self.drop = nn.Dropout(0.5)
        for name, (std, bias) in INIT.items():
            layer = cast(nn.Conv2d | nn.Linear, getattr(self, name))
            if init == "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            else:
                nn.init.normal_(layer.weight, std=std)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, bias if init == "caffe" else 0.0)

    def features(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (3, self.size, self.size):
            raise ShapeError(
                "the input has another size", got=tuple(x.shape), expected=(len(x), 3, self.size, self.size)
            )
        x = _pool(self.norm(F.relu(self.conv1(x))))
        x = _pool(self.norm(F.relu(self.conv2(x))))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = _pool(F.relu(self.conv5(x)))
        x = self.drop(F.relu(self.fc6(x.flatten(1))))
        return F.relu(self.fc7(x))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc8(self.drop(self.features(x))))


def alexnet(
    *, classes: int = 500, width: float = 1.0, hidden: int = 4096, size: int = CROP, init: str = "caffe"
) -> AlexNet:
    """58.9 M parameters with 500 persons, 56.9 M without fc8; 0.72 GMAC at 227 px."""
    return AlexNet(classes=classes, width=width, hidden=hidden, size=size, init=init)


def start_from(network: AlexNet, state: Mapping[str, Tensor]) -> None:
    """Fills all layers but fc8 from the blobs of a Caffe AlexNet, ``conv1.weight`` … ``fc7.bias``; fc8 is left.

    Raises
    ------
    CheckpointError
        A layer is unknown, missing or of another shape.
    """
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc8.")}
    given = {name: tensor for name, tensor in state.items() if not name.startswith("fc8.")}
    if set(own) != set(given):
        raise CheckpointError(
            "these are not the layers of AlexNet", got=f"unknown {sorted(set(given) - set(own))}",
            expected=f"also {sorted(set(own) - set(given))}",
        )  # fmt: skip
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{name} has another shape", got=tuple(tensor.shape), expected=tuple(own[name].shape),
                hint="build the network with the width, hidden and size of the file",
            )  # fmt: skip
    network.load_state_dict({**given, "fc8.weight": network.fc8.weight, "fc8.bias": network.fc8.bias})


def caffe_input(
    images: NDArray[np.uint8],
    *,
    crop: int = CROP,
    mean: Sequence[float] | NDArray[np.floating] = MEAN_BGR,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """What AlexNet sees: BGR less the mean, a crop of it, mirrored half of the time when training.

    Parameters
    ----------
    images
        (B, S, S, 3) uint8 RGB; the paper's S is 256.
    crop
        Side of the crop in pixels, at most S.
    mean
        Of BGR: three numbers, or a picture (S, S, 3).
    rng
        Draws place and mirroring of each; None takes the middle.

    Returns
    -------
    Tensor
        (B, 3, crop, crop) float32.
    """
    if images.ndim != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < crop:
        raise ShapeError("the pictures are smaller than the crop", got=images.shape, expected=(crop, crop, 3))
    whole = images[..., ::-1].astype(np.float32) - np.asarray(mean, np.float32)
    spare_y, spare_x = images.shape[1] - crop, images.shape[2] - crop
    if rng is None:
        y, x = spare_y // 2, spare_x // 2
        cut = whole[:, y : y + crop, x : x + crop]
    else:
        tops, lefts = rng.integers(spare_y + 1, size=len(images)), rng.integers(spare_x + 1, size=len(images))
        mirrored = rng.random(len(images)) < 0.5
        cut = np.empty((len(images), crop, crop, 3), np.float32)
        for row, (y, x) in enumerate(zip(tops, lefts, strict=True)):
            piece = whole[row, y : y + crop, x : x + crop]
            cut[row] = piece[:, ::-1] if mirrored[row] else piece
    return torch.from_numpy(np.ascontiguousarray(cut.transpose(0, 3, 1, 2)))


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, ceil_mode=True)
