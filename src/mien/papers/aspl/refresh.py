"""New features between rounds: the network is fine-tuned on what has a name, and all pictures are looked at again.

The loop takes any callable of `Refresh`'s kind. `FineTune` is the paper's: a softmax over the persons who have a
classifier, stochastic gradient descent with momentum, biases at twice the rate and without decay, a step schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, TrainingError
from mien.nn.inputs import to_input
from mien.papers.aspl.network import Classified, caffe_input

Picture = NDArray[np.uint8]
Fetch = Callable[[NDArray[np.int64]], Picture]
"""Pictures (b, S, S, 3) uint8 RGB of rows (b,)."""
Prepare = Callable[[Picture, np.random.Generator | None], Tensor]
"""Pictures to network input (b, 3, s, s): augmented with a generator, plain without one."""


class Refresh(Protocol):
    """Gives new features."""

    def __call__(
        self, rows: NDArray[np.int64], labels: NDArray[np.int64], weights: NDArray[np.float64], *,
        persons: tuple[str, ...], turn: int,
    ) -> NDArray[np.floating]:  # fmt: skip
        """Features (n, d) of all n pictures of the pool.

        Parameters
        ----------
        rows
            (m,) pictures that have a name, by a human or for free.
        labels
            (m,) their persons, numbered anew as in `persons`: only those who have a classifier.
        weights
            (m,) 1 for human labels, v for the others.
        persons
            The names, in the order of the labels.
        turn
            Number of the round.
        """
        ...


def plain_input(images: Picture, rng: np.random.Generator | None) -> Tensor:
    """What mien's networks see, mirrored half of the time when training."""
    if rng is not None:
        images = images.copy()
        mirrored = rng.random(len(images)) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
    return to_input(torch.from_numpy(np.ascontiguousarray(images)))


def alexnet_input(*, crop: int = 227, mean: Any = None) -> Prepare:
    """`caffe_input` with a crop and a mean."""
    more: dict[str, Any] = {} if mean is None else {"mean": mean}
    return lambda images, rng: caffe_input(images, crop=crop, rng=rng, **more)


CACD: dict[str, Any] = {"steps": 40_000, "lr": 1e-3, "lr_every": 15_000}
"""Fine-tuning of a round on CACD."""
CACD_START: dict[str, Any] = {"steps": 80_000, "lr": 1e-3, "lr_every": 30_000}
"""The first fine-tuning, on the initial labels."""
WEBFACE: dict[str, Any] = {"steps": 80_000, "lr": 1e-4, "lr_every": 60_000}
WEBFACE_START: dict[str, Any] = {"steps": 100_000, "lr": 1e-4, "lr_every": 60_000}


@dataclass(kw_only=True)
class FineTune:
    """The paper's refresh.

    Parameters
    ----------
    network
        AlexNet, or any other in `Classified`.
    pictures
        (n, S, S, 3) uint8 RGB in memory, or a function from rows to pictures.
    count
        Number of pictures n; needed with a function only.
    prepare
        Pictures to network input.
    steps, batch
        Of a round.
    lr, lr_every, lr_factor
        The rate, multiplied by `lr_factor` every `lr_every` steps; it begins anew each round.
    momentum, weight_decay
        Of stochastic gradient descent.
    weighted
        Whether the softmax loss of a picture is multiplied by its weight v. The published code lists pictures only.
    unit
        Whether features are brought to length one. Not in the paper; C must be chosen for it.
    batch_norm
        Whether batch normalisation learns new statistics; with few pictures those that are there are better.
    device, seed
        Where it trains; of order, crops and dropout.
    told
        Called as ``told(done, total, what)``.
    """

    network: Classified
    pictures: Picture | Fetch
    count: int | None = None
    prepare: Prepare = plain_input
    steps: int = 40_000
    batch: int = 64
    lr: float = 1e-3
    lr_every: int = 15_000
    lr_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    weighted: bool = False
    unit: bool = False
    batch_norm: bool = False
    device: str = "cpu"
    seed: int = 0
    told: Callable[[float, float | None, str], None] | None = None
    persons: tuple[str, ...] = field(default=(), init=False)
    losses: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if callable(self.pictures) and self.count is None:
            raise OptionError("how many pictures there are must be said", got="a function", expected="count=")
        self.network.to(self.device)

    def __call__(
        self, rows: NDArray[np.int64], labels: NDArray[np.int64], weights: NDArray[np.float64], *,
        persons: tuple[str, ...], turn: int,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Fine-tunes, and gives the new features (n, d) of all pictures."""
        self.tune(rows, labels, weights, persons=persons, turn=turn)
        return self.extract()

    def tune(
        self, rows: NDArray[np.int64], labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None, *,
        persons: tuple[str, ...], turn: int = 0, steps: int | None = None,
    ) -> None:  # fmt: skip
        """Fine-tunes on pictures `rows` with `labels`; see `Refresh`."""
        if not len(rows):
            raise TrainingError("nothing has a name yet", got="no picture", hint="label a few pictures of each person")
        steps = self.steps if steps is None else steps
        known = {name: row for row, name in enumerate(self.persons)}
        if persons != self.persons or self.network.fc8.out_features != len(persons):
            torch.manual_seed(self.seed + turn)
            self.network.resize_classes(len(persons), [known.get(name, -1) for name in persons])
            self.network.to(self.device)
            self.persons = persons
        rng = np.random.default_rng([self.seed, 31, turn])
        torch.manual_seed(self.seed * 1009 + turn)
        update = self.optimiser()
        rates = [float(group["lr"]) for group in update.param_groups]
        self.network.train()
        if not self.batch_norm:
            for layer in self.network.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
        order = np.zeros(0, np.int64)
        batch = min(self.batch, len(rows))
        for step in range(steps):
            if len(order) < batch:
                order = rng.permutation(len(rows))
            some, order = order[:batch], order[batch:]
            for group, rate in zip(update.param_groups, rates, strict=True):
                group["lr"] = rate * self.lr_factor ** (step // self.lr_every)
            images = self.prepare(self.fetch(rows[some]), rng).to(self.device)
            wanted = torch.from_numpy(labels[some]).to(self.device)
            loss = F.cross_entropy(self.network(images), wanted, reduction="none")
            if self.weighted and weights is not None:
                loss = loss * torch.from_numpy(weights[some]).to(loss)
            update.zero_grad(set_to_none=True)
            mean = loss.mean()
            mean.backward()  # type: ignore[no-untyped-call]
            update.step()
            if step % 20 == 0 or step == steps - 1:
                value = float(mean.detach())
                if not math.isfinite(value):
                    raise TrainingError("the loss is no longer finite", got=value, hint="lower lr")
                self.losses.append(value)
                if self.told is not None:
                    self.told(step, steps, f"fine-tuning, loss {value:.3f}")
        self.network.eval()

    def optimiser(self) -> torch.optim.SGD:
        """Biases at twice the rate and without decay."""
        parts: dict[bool, list[nn.Parameter]] = {False: [], True: []}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                parts[name.endswith("bias")].append(parameter)
        return torch.optim.SGD(
            [
                {"params": parts[False], "lr": self.lr, "weight_decay": self.weight_decay},
                {"params": parts[True], "lr": 2 * self.lr, "weight_decay": 0.0},
            ],
            momentum=self.momentum,
        )

    def fetch(self, rows: NDArray[np.int64]) -> Picture:
        """Pictures of `rows`."""
        return self.pictures(rows) if callable(self.pictures) else self.pictures[rows]

    def extract(self, pictures: Picture | None = None) -> NDArray[np.float32]:
        """Features (n, d) of all pictures, or of `pictures`, from their middle."""
        if pictures is not None:
            count: int = len(pictures)
        else:
            count = self.count if self.count is not None else len(self.pictures)  # type: ignore[arg-type]
        parts = []
        self.network.eval()
        with torch.inference_mode():
            for start in range(0, count, self.batch):
                rows = np.arange(start, min(start + self.batch, count))
                some = self.fetch(rows) if pictures is None else pictures[rows]
                found = self.network.features(self.prepare(some, None).to(self.device)).float()
                parts.append(F.normalize(found, dim=1).cpu() if self.unit else found.cpu())
        return torch.cat(parts).numpy()

    def save(self, path: Path) -> None:
        """The network and the persons of its last layer, as safetensors."""
        from mien.train import checkpoint

        checkpoint.save_weights(path, self.network, metadata={"persons": "\n".join(self.persons)})

    def load(self, path: Path) -> None:
        """What `save` wrote.

        Raises
        ------
        CheckpointError
            The file is none, or of another network.
        """
        from safetensors import SafetensorError, safe_open

        from mien.train import checkpoint

        try:
            with safe_open(path, "pt") as file:
                names = (file.metadata() or {}).get("persons", "")
        except (OSError, SafetensorError) as error:
            raise CheckpointError("the network of the run cannot be read", got=f"{path}: {error}") from error
        self.persons = tuple(names.split("\n")) if names else ()
        if self.persons:
            self.network.resize_classes(len(self.persons), [])
        checkpoint.fill(self.network, path)
        self.network.to(self.device)


def embedded(
    pictures: Picture | Fetch, count: int | None = None, *, weights: str = "mien-embedder", device: str = "cpu"
) -> NDArray[np.float32]:
    """Unit features (n, d) by declared weights, the bundled embedder's or imported ones; no fine-tuning.

    Parameters
    ----------
    pictures
        (n, S, S, 3) uint8 RGB crops in the frame that the weights want, or a function from rows to them.
    count
        n, with a function.
    weights
        Name of an embedder's weights.
    device
        "cpu", "cuda", "mps".
    """
    from mien.weights import info, load

    declared, network = info(weights), load(weights, device=device)
    total = len(pictures) if not callable(pictures) else count
    if total is None or declared.embedding is None:
        raise OptionError(
            "features need an embedder and a number of pictures",
            got=(declared.task, count),
            expected="embedding, count=",
        )
    parts = []
    with torch.inference_mode():
        for start in range(0, total, 64):
            rows = np.arange(start, min(start + 64, total))
            some = pictures(rows) if callable(pictures) else pictures[rows]
            batch = declared.input.tensor(some, device=device)
            found = network(batch).float()
            if declared.embedding.flip:
                found = (found + network(batch.flip(3)).float()) / 2
            parts.append(F.normalize(found, dim=1).cpu())
    return torch.cat(parts).numpy()
