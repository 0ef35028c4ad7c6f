"""FaceNet's claims: semi-hard negatives, one byte a number, and embeddings that a new network shares with an old one.

Small scale, minutes on two cores: crops of 56 px, a network of four convolutions, 150 steps of 24 people with 8
pictures each, Adam at 1e-3, the margin 0.2. On "heads", 60 % of 250 rendered people with 8 pictures each, uncovered and
turned by 45 degrees at most, are trained on and the others compared, all pictures with all; on "cfp" and
"celeba10k", all people of the set are trained on, and the pictures of LFW's folds 1 to 5 are compared, all with all.
All margins were written down before any run: 0.10 for semi-hard negatives, -0.02 and the order of the harmonic claims
with the description of the paper that this was built from, -0.005 for bytes and 0.30 in AUC here. Two trials on heads
came first. Turned by up to 90 degrees and covered by hands, masks and sunglasses, one seed gave a VAL of 0.08 with
random and 0.10 with semi-hard negatives, too little to show anything, so the heads were eased. Of 150 people with 12
pictures, whose 90 in training are fewer than that description asks for, two seeds gave 0.13 and 0.11 with random, 0.12
and 0.17 with semi-hard negatives; so there are more people now. No other number was changed.

At the paper's scale, NN2 at 224 px is trained on batches of 1,800 for 500,000 steps, and 2 % of the people are kept out
and compared.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mien.claims import _people
from mien.claims._small import figures, vectors
from mien.claims.harness import Claim, Measured, Setting
from mien.data.pixels import Picture
from mien.errors import OptionError

if TYPE_CHECKING:
    from mien.train.recipes.triplet import TripletRecipe

SIZE, DIM = 56, 128
PEOPLE, PICTURES, HELD = 250, 8, 0.4
SMALL: dict[str, Any] = {
    "network": "mien.claims._small:four_convolutions", "dim": DIM, "size": SIZE, "batch_size": 192, "images": 8,
    "steps": 150, "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant", "warmup": 0, "ema": 0.0, "clip": 0.0,
    "flip": True, "half": False, "tensorboard": "no", "save_every": 10_000,
}  # fmt: skip
PAPER: dict[str, Any] = {"preset": "paper", "held": 0.02, "half": False, "precision": "bf16-mixed"}
OLD_STEPS, NEW_STEPS, LAST_STEPS, ALL_STEPS = 80, 200, 80, 150
"""Of the old network, of the new one alone, of its new embedding layer against the old vectors, and of all of it."""

FAR = 1e-3


# ------------------------------------------------------------------------------------------- data and training


def records(setting: Setting) -> Path:
    """The training people of a setting as records; drawn or aligned once in its folder."""
    if setting.scale == "paper":
        if setting.folder is None:
            raise OptionError(
                "the paper's scale needs a large set of people", got="no folder", expected=" or ".join(LARGE),
                hint="give the folder that holds it with --data-root",
            )  # fmt: skip
        return setting.folder
    return _people.write(setting.out / "people", *_crops(setting))


@functools.lru_cache(maxsize=3)
def _drawn(seed: int) -> tuple[Picture, NDArray[np.int64]]:
    """The heads of a seed: all claims of a run look at the same, so they are drawn once."""
    return _people.rendered(people=PEOPLE, pictures=PICTURES, size=SIZE, seed=seed)


def _crops(setting: Setting) -> tuple[Picture, NDArray[np.int64]]:
    if setting.data == "heads":
        setting.told(0, None, "drawing heads")
        return _drawn(setting.seed)
    setting.told(0, None, f"aligning {setting.data}")
    return _people.photographed(setting.data, setting.folder, size=SIZE)


def recipe(setting: Setting, data: Path, name: str, **numbers: Any) -> TripletRecipe:
    """A training of this setting, in the folder `name` of it."""
    from mien.train.recipes.triplet import TripletRecipe

    base = dict(PAPER if setting.scale == "paper" else SMALL)
    if setting.scale == "small":
        base["held"] = HELD if setting.data == "heads" else 0.0
        if setting.data == "celeba10k":
            base["images"] = 3  # of most of its people there are no more
    if setting.steps is not None:
        numbers["steps"] = min(setting.steps, numbers.get("steps", setting.steps))
    return TripletRecipe.make(
        **{**base, "data": str(data), "out": str(setting.out / name), "seed": setting.seed, "device": setting.device}
        | numbers
    )


def trained(setting: Setting, run: TripletRecipe) -> nn.Module:
    """The network that `run` ends with."""
    from mien.train import checkpoint
    from mien.train.loop import fit
    from mien.train.recipes.triplet import built

    name = Path(run.out).name
    result = fit(run, progress=lambda p: setting.told(p.step, p.steps, f"{name}, loss {p.loss:.3f}"))
    network = built(run.network, run.arguments, run.dim)
    checkpoint.fill(network, result.weights)
    return network.eval()


def compared_people(setting: Setting, run: TripletRecipe) -> tuple[Picture, NDArray[np.int64]]:
    """Crops (n, S, S, 3) uint8 of people that `run` was not trained on, and who they are."""
    if run.held:
        return run.held_out()
    root = None if setting.data_root is None else setting.data_root / "lfw"
    return _people.photographed("lfw", root, size=run.size)


# ------------------------------------------------------------------------------------------- the experiments


_compared: dict[tuple[object, ...], tuple[NDArray[np.float32], NDArray[np.int64]]] = {}
_harmonic: dict[tuple[object, ...], dict[str, tuple[float, float]]] = {}
"""What a seed's trainings gave: several claims look at the same networks."""


def embedded(setting: Setting, rule: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Vectors of the compared people after a training with `rule`, and who they are."""
    key = (*setting.key, rule)
    if key not in _compared:
        run = recipe(setting, records(setting), rule, rule=rule)
        network = trained(setting, run)
        crops, labels = compared_people(setting, run)
        _compared[key] = vectors(network, crops), labels
    return _compared[key]


def negatives(setting: Setting) -> Measured:
    """Semi-hard negatives against random ones."""
    val, auc = {}, {}
    for rule in ("random", "semi_hard"):
        z, labels = embedded(setting, rule)
        val[rule], auc[rule] = figures(z, z, labels)
    details = {f"auc_{rule}": value for rule, value in auc.items()}
    return Measured(baseline=val["random"], idea=val["semi_hard"], details=details)


def bytes_for_floats(setting: Setting) -> Measured:
    """The same embedding as 128 floats and as 128 bytes."""
    from mien.papers.facenet import dequantise, quantise

    z, labels = embedded(setting, "semi_hard")
    short = dequantise(quantise(z))
    whole, whole_auc = figures(z, z, labels)
    coded, coded_auc = figures(short, short, labels)
    return Measured(baseline=whole, idea=coded, details={"auc_floats": whole_auc, "auc_bytes": coded_auc})


def harmonic(setting: Setting) -> dict[str, tuple[float, float]]:
    """VAL and AUC by who is compared with whom: "old", "alone_old", "harmonic_old", "alone", "harmonic"."""
    key = setting.key
    if key in _harmonic:
        return _harmonic[key]
    data = records(setting)
    first = recipe(setting, data, "old", steps=OLD_STEPS, arguments=("width=0.5",))
    old = trained(setting, first)
    alone_run = recipe(setting, data, "alone", steps=NEW_STEPS)
    alone = trained(setting, alone_run)
    tie = {"old": f"{first.out}/weights.safetensors", "old_network": first.network, "old_arguments": first.arguments}
    last = recipe(
        setting, data, "last", steps=LAST_STEPS, harmonic="last", init=f"{alone_run.out}/weights.safetensors", **tie
    )
    trained(setting, last)
    both = recipe(
        setting, data, "all", steps=ALL_STEPS, harmonic="all", init=f"{last.out}/weights.safetensors", lr=5e-4, **tie
    )
    new = trained(setting, both)
    crops, labels = compared_people(setting, both)
    z = {"old": vectors(old, crops), "alone": vectors(alone, crops), "harmonic": vectors(new, crops)}
    found = {name: figures(z[name], z[name], labels) for name in z}
    found |= {f"{name}_old": figures(z[name], z["old"], labels) for name in ("alone", "harmonic")}
    _harmonic[key] = found
    return found


def _details(found: dict[str, tuple[float, float]]) -> dict[str, float]:
    details: dict[str, float] = {}
    for name, (val, auc) in found.items():
        details |= {f"val_{name}": val, f"auc_{name}": auc}
    return details


def compatible(setting: Setting) -> Measured:
    """Harmonic new vectors against old ones, beside old against old."""
    found = harmonic(setting)
    return Measured(baseline=found["old"][0], idea=found["harmonic_old"][0], details=_details(found))


def intermediate(setting: Setting) -> Measured:
    """Harmonic new against old, beside harmonic new against harmonic new."""
    found = harmonic(setting)
    return Measured(baseline=found["harmonic_old"][0], idea=found["harmonic"][0], details=_details(found))


def incomparable(setting: Setting) -> Measured:
    """A new network trained alone, against old vectors, beside the harmonic one."""
    found = harmonic(setting)
    return Measured(baseline=found["alone_old"][1], idea=found["harmonic_old"][1], details=_details(found))


ON: tuple[str, ...] = ("heads", "cfp", "celeba10k")
LARGE: tuple[str, ...] = ("faces_webface_112x112", "faces_emore")
"""Public sets of named people, by the names of their folders."""

VAL = "VAL at FAR 1e-3"

CLAIMS = (
    Claim(
        slug="facenet", name="semi-hard-negatives", metric=VAL, better="higher", margin=0.10,
        says="At equal steps, triplets with semi-hard negatives give a better embedding than with random ones.",
        data=ON, paper_data=LARGE, run=negatives,
    ),
    Claim(
        slug="facenet", name="a-byte-a-number", metric=VAL, better="higher", margin=-0.005,
        says="An embedding of 128 bytes verifies as well as one of 128 floats.",
        data=ON, paper_data=LARGE, run=bytes_for_floats,
    ),
    Claim(
        slug="facenet", name="harmonic-compatible", metric=VAL, better="higher", margin=-0.02,
        says="A harmonic new network compares with old vectors as well as the old network does.",
        data=ON, paper_data=LARGE, run=compatible,
    ),
    Claim(
        slug="facenet", name="harmonic-intermediate", metric=VAL, better="higher", margin=0.0,
        says="Harmonic new vectors compare better with each other than with old ones.",
        data=ON, paper_data=LARGE, run=intermediate,
    ),
    Claim(
        slug="facenet", name="harmonic-needed", metric="AUC, new against old", better="higher", margin=0.30,
        says="A new network trained alone cannot be compared with old vectors, and a harmonic one can.",
        data=ON, paper_data=LARGE, run=incomparable,
    ),
)  # fmt: skip
