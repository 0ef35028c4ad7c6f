"""``probe apply``: what a trained probe says of new pictures."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mien.errors import OptionError
from mien.faces import Failure
from mien.verbs import _output
from mien.verbs._pipeline import Progress, Source
from mien.verbs.probe._pictures import pictures, told


@dataclass(frozen=True)
class Scored:
    """Scores of one picture by label. Attributes: above 0 is yes. Classes: votes, with the best in `best`."""

    file: str
    best: str
    scores: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and tables."""
        return {"file": self.file, "best": self.best, **self.scores}


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a probe says of pictures.

    Parameters
    ----------
    probe
        Its file.
    rule
        "one-against-all" (attributes) or "one-against-one" (classes).
    pictures
        Each with its scores; those without a face, where one is needed, are among the failures.
    failures
        Pictures that could not be read, or have no face.
    """

    probe: str
    rule: str
    pictures: tuple[Scored, ...]
    failures: tuple[Failure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "probe": self.probe, "rule": self.rule, "pictures": [one.to_dict() for one in self.pictures],
            "failures": [asdict(one) for one in self.failures],
        }  # fmt: skip


def apply(
    source: Source,
    *,
    probe: str,
    recursive: bool = False,
    weights: str | None = None,
    pretrained: bool = False,
    choose: str = "largest",
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 8,
    out: str | None = None,
    progress: Progress | None = None,
) -> Applied:
    """Says of new pictures what a trained probe tells.

    Parameters
    ----------
    source
        Pictures, videos, folders or globs; in Python also arrays, tensors, PIL images, bytes, file objects,
        and lists of all these.
    probe
        File that ``mien probe fit --out`` wrote.
    recursive
        Go into the folders of folders.
    weights
        File of the network's state dict, where the probe was trained with one; its numbers must be the same.
    pretrained
        Let timm or torchvision fetch the weights, where the probe was trained with theirs.
    choose
        Which face counts where a picture shows several: "largest", "central" or "surest".
    seed
        Of a random network, as it was trained with.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    batch_size
        Pictures that are looked at together.
    out
        CSV file that receives the scores: a row a picture.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    Applied
        Scores by picture and label.

    Raises
    ------
    CheckpointError
        The file holds no probe.
    HashMismatch
        The network's numbers are not those the probe was trained on.
    OptionError
        The probe was trained with boxes of a table, which new pictures have not.
    """
    from mien.papers import cnn_off_the_shelf as paper

    loaded = paper.load_probe(probe)
    recipe = loaded.recipe
    if recipe.crop == "box":
        raise OptionError(
            "the probe looks into boxes of a table", got=recipe.crop, expected="photo or face",
            hint="cut the boxes out and train with crop=photo",
        )  # fmt: skip
    random = ":" in recipe.network and weights is None and not pretrained
    network = paper.backbone(
        recipe.network,
        weights=weights,
        pretrained=pretrained,
        random=random,
        size=recipe.size,
        seed=seed,
        device=device,
    )
    seen = pictures(source, recipe, network, None, choose, device, batch_size, progress, recursive=recursive)
    scores = (
        loaded.scores(network, seen.crops, batch=batch_size * len(recipe.views), progress=told(progress, "features"))
        if len(seen.crops)
        else np.zeros((0, len(loaded.classifier.names)), np.float32)
    )
    names = loaded.classifier.names
    rows = tuple(
        Scored(file, names[int(values.argmax())], dict(zip(names, map(float, values), strict=True)))
        for file, values in zip(seen.names, scores, strict=True)
    )
    if out is not None:
        with _output.whole_file(out) as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["file", "best", *names])
            table.writerows([row.file, row.best, *(f"{row.scores[name]:.5f}" for name in names)] for row in rows)
    return Applied(probe=probe, rule=loaded.classifier.rule, pictures=rows, failures=seen.failures)
