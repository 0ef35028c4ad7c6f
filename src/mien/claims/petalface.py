"""PETALface's claims: adapters learn low resolution from few people and forget little; full fine-tuning forgets.

Small scale: a vision transformer of four blocks (32 px, patches of 8, width 64, tokens flattened to 64 numbers) learns
to tell people apart from good pictures (CosFace with a margin of 0.2 and s = 16, AdamW at 2e-3, 10 epochs). Then it is
adapted to 40 other people with 12 pictures each, reduced to 6 or 8 px or not at all, 30 epochs, with a new class layer:
all its weights, or twin low-rank branches of rank 4 at 5e-3, the rest and the running statistics being frozen. Branches
are mixed by the gradient energy of the picture, in units of four standard deviations of the adaptation set. Compared
are people of neither set: HR is the share of pairs of one person accepted at a false accept rate of 1 %, of all pairs
of good pictures; LR is rank 1 of pictures of 7 px among everybody's first good picture.

All margins were written down with the description of the paper that this was built from, which tried "patterns" with
patches of 4 px, for minutes longer. That two branches beat one is not claimed, since that trial did not show it; the
details have both, and by how much alpha differs between good pictures and probes.

Two things were changed after trials of one seed. Heads turned by 20 degrees, with glasses, hats, make-up and any light
left the network at an HR of 0.53 before adaptation, where there is little to forget; so heads are turned by 15 degrees
at most, wear nothing, and expressions and light are halved: 0.94. And the full fine-tuning of that description, at
2e-3, turned out to be the worse of its two rates here; both 2e-3 and 5e-4 are run, and the better one for a claim's
figure is its baseline.

Photographs: of CFP, 150 people with 14 pictures each are learnt, 40 others with 12 adapted to, and the pictures of the
remaining 60 compared. Of "celeba10k", all people with three pictures or more are learnt; the other two sets are CFP's.

At the paper's scale the recipe's presets "webface4m" and "tinyface" train the released network on a public set and on
TinyFace's training part, which lies beside it; LR is rank 1 of TinyFace's identification, HR the share accepted at a
false accept rate of 0.1 % of held-out people of the large set. Full fine-tuning is at the rate of the adapters there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.claims import _people
from mien.claims._patterns import patterns
from mien.claims._small import fit_in_memory, vectors
from mien.claims.harness import Claim, Measured, Setting
from mien.data.low_resolution import at_pixels
from mien.data.pixels import Picture
from mien.errors import OptionError
from mien.metrics import tar_at_far

if TYPE_CHECKING:
    from mien.train.loop import Progress
    from mien.train.recipes.adapters import AdaptersRecipe

Labels = NDArray[np.int64]
Kind = Literal["none", "everywhere", "twin"]

SIZE, DIM = 32, 64
NETWORK: dict[str, Any] = {
    "dim": DIM, "size": SIZE, "patch": 8, "width": 64, "depth": 4, "heads": 4, "bottleneck": False, "drop_path": 0.0,
    "qkv_bias": True,
}  # fmt: skip
RANK = 4
SIDES, PROBE = (6, 8, SIZE), 7
"""Sides of the adaptation pictures, and of probes, px."""
MARGIN, SCALE = 0.2, 16.0
EPOCHS, ADAPT_EPOCHS, BATCH = 10, 30, 64
RATE = 2e-3
ADAPTED: Mapping[str, tuple[Kind, float]] = {
    "full": ("none", 2e-3), "full_slow": ("none", 5e-4), "everywhere": ("everywhere", 5e-3), "twin": ("twin", 5e-3),
}  # fmt: skip
"""What is trained in adaptation (all, single branches, twin branches), and at which rate."""
COUNTS: dict[str, tuple[tuple[int, int], ...]] = {
    "heads": ((200, 12), (40, 12), (100, 6)),
    "patterns": ((200, 20), (40, 12), (150, 6)),
}
"""People and pictures of each: to learn from, to adapt to, to compare."""
TURNED = 15.0
PLAIN: dict[str, Any] = {
    "occluder": "none", "glasses": 0, "hat": 0, "lipstick": 0.0, "eyeshadow": 0.0, "eyeliner": 0.0, "blush": 0.0,
}  # fmt: skip
"""Of heads: degrees to either side, and what they do without."""
FAR = 0.01
PRETRAIN: dict[str, Any] = {"preset": "webface4m", "held": 0.01, "precision": "bf16-mixed"}
ADAPT: dict[str, Any] = {"preset": "tinyface", "precision": "bf16-mixed", "quality": "sharpness"}


# ------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class World:
    """Pictures (n, 32, 32, 3) and people (n,) of the three sets; `low` are the compared pictures at `PROBE` px."""

    learnt: Picture
    learnt_people: Labels
    adapted: Picture
    adapted_people: Labels
    good: Picture
    low: Picture
    people: Labels


def world(setting: Setting) -> World:
    """The data of a setting; all claims of a run look at the same."""
    setting.told(0, None, f"pictures of {setting.data}")
    return _world(setting.seed, setting.data, setting.data_root)


@functools.lru_cache(maxsize=1)
def _world(seed: int, data: str, root: Path | None) -> World:
    if data == "patterns":
        (a, b), (c, d), (e, f) = COUNTS[data]
        learnt = patterns(a, b, world=seed, part=0)
        adapted = patterns(c, d, world=seed, part=1, pixels=SIDES)
        good, low = (patterns(e, f, world=seed, part=2, pixels=(side,)) for side in (SIZE, PROBE))
        return World(learnt.crops, learnt.labels, adapted.crops, adapted.labels, good.crops, low.crops, good.labels)
    if data == "heads":
        sets = [
            heads(people=people, pictures=pictures, seed=3 * seed + part)
            for part, (people, pictures) in enumerate(COUNTS[data])
        ]
    else:
        sets = _photographs(seed, data, root)
    rng = np.random.default_rng([seed, 23])
    adapted_crops = at_pixels(sets[1][0], rng.choice(np.asarray(SIDES), len(sets[1][0])), kernel="linear")
    (learnt_crops, learnt_people), (_, adapted_people), (good_crops, people) = sets
    low_crops = at_pixels(good_crops, PROBE, kernel="linear")
    return World(learnt_crops, learnt_people, adapted_crops, adapted_people, good_crops, low_crops, people)


def heads(*, people: int, pictures: int, seed: int) -> tuple[Picture, Labels]:
    """Crops (people * pictures, 32, 32, 3) of rendered heads that differ in little but who they are."""
    from mien.data.heads import render, sample
    from mien.geometry.landmarks import five_from_68

    parts = []
    count = people * pictures
    for start in range(0, count, _people.SHARD):
        some = sample(min(_people.SHARD, count - start), seed=seed, start=start, per_identity=pictures, **PLAIN)
        some = some.with_(
            pose=np.clip(some.pose, -TURNED, TURNED), units=some.units * 0.4, exposure=some.exposure * 0.5,
            key_share=np.minimum(some.key_share, 0.3), key_direction=some.key_direction * 0.5,
        )  # fmt: skip
        drawn = render(some, size=72, what=("image", "landmarks"))
        parts.append(_people._cut(drawn.image, five_from_68(drawn.landmarks_2d), SIZE))
    return np.concatenate(parts), np.repeat(np.arange(people, dtype=np.int64), pictures)


def _photographs(seed: int, data: str, root: Path | None) -> list[tuple[Picture, Labels]]:
    def read(name: str) -> tuple[Picture, Labels]:
        return _people.photographed(name, None if root is None else root / name, size=SIZE)

    crops, labels = read("cfp")
    order = np.random.default_rng([seed, 29]).permutation(np.unique(labels))
    cuts = (order[:150], order[150:190], order[190:])
    rows = [np.flatnonzero(np.isin(labels, part)) for part in cuts]
    rows[1] = np.concatenate([np.flatnonzero(labels == who)[:12] for who in cuts[1]])
    sets = [(crops[part], _numbered(labels[part])) for part in rows]
    if data == "celeba10k":
        crops, labels = read(data)
        often = np.flatnonzero(np.bincount(labels)[labels] >= 3)
        sets[0] = crops[often], _numbered(labels[often])
    return sets


def _numbered(labels: Labels) -> Labels:
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


# ------------------------------------------------------------------------------------------- training


def _fit(
    setting: Setting, network: Callable[[Tensor], Tensor], module: nn.Module, crops: Picture, labels: Labels, *,
    epochs: int, lr: float, what: str,
) -> None:  # fmt: skip
    """Trains what learns of `module`, with a new class layer, by CosFace."""
    generator = torch.Generator().manual_seed(setting.seed + 1)
    head = nn.Parameter((torch.randn(int(labels.max()) + 1, DIM, generator=generator) * 0.01).to(setting.device))

    def loss(images: Tensor, own: Tensor) -> Tensor:
        cosines = F.normalize(network(images)) @ F.normalize(head).T
        return F.cross_entropy(SCALE * (cosines - MARGIN * F.one_hot(own, len(head))), own)

    batch = min(BATCH, len(crops))
    steps = max(1, epochs * len(crops) // batch)
    fit_in_memory(
        crops, labels, loss, [*module.parameters(), head], steps=steps if setting.steps is None else setting.steps,
        batch=batch, lr=lr, seed=setting.seed, optimiser="adamw", weight_decay=0.05, clip=5.0,
        flip=setting.data != "patterns", device=setting.device, told=setting.told, what=what,
    )  # fmt: skip


def pretrained(setting: Setting, data: World) -> nn.Module:
    """A network that has learnt from good pictures."""
    from mien.papers.petalface import vit_b

    torch.manual_seed(setting.seed)
    network = vit_b(**NETWORK).to(setting.device).train()
    _fit(setting, network, network, data.learnt, data.learnt_people, epochs=EPOCHS, lr=RATE, what="pretraining")
    return network.eval()


def adapted(setting: Setting, data: World, plain: nn.Module, name: str) -> nn.Module:
    """The network after the adaptation of that name in `ADAPTED`."""
    from mien.nn.iqa import Gradient, QualityWeight
    from mien.papers.petalface import Blended, freeze, vit_b

    kind, lr = ADAPTED[name]
    torch.manual_seed(setting.seed)
    made = vit_b(**NETWORK, adapters=kind, rank=RANK)
    inner = made.network if isinstance(made, Blended) else made
    inner.load_state_dict(plain.state_dict(), strict=kind == "none")
    weight: QualityWeight | None = None
    if kind == "twin":
        weight = QualityWeight(Gradient(), clamp=True, std=128.0)
        weight.centre(_qualities(weight, data.adapted), standardise=True)
    network = Blended(inner, weight).to(setting.device).train()
    if kind != "none":
        freeze(network)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm1d):
                layer.eval()
    _fit(setting, network, network, data.adapted, data.adapted_people, epochs=ADAPT_EPOCHS, lr=lr, what=name)
    return network.eval()


def _qualities(weight: Any, crops: Picture) -> Tensor:
    with torch.no_grad():
        images = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 127.5) / 128
        found: Tensor = weight.quality(images)
    return found


def measured(network: nn.Module, data: World, device: str) -> tuple[float, float]:
    """HR and LR of a network: see the module's docstring."""
    good, low = (vectors(network, crops, device=device) for crops in (data.good, data.low))
    return high_resolution(good, data.people), low_resolution(good, low, data.people)


def high_resolution(z: NDArray[np.float32], people: Labels) -> float:
    """TAR at `FAR` of all pairs of unit vectors."""
    first, second = np.triu_indices(len(z), 1)
    return tar_at_far((z[first] * z[second]).sum(1), people[first] == people[second], FAR)


def low_resolution(good: NDArray[np.float32], low: NDArray[np.float32], people: Labels) -> float:
    """Rank 1 of everybody's pictures but the first, reduced, among the first ones."""
    first = np.unique(people, return_index=True)[1]
    probes = np.setdiff1d(np.arange(len(people)), first)
    found = people[first][(low[probes] @ good[first].T).argmax(1)]
    return float((found == people[probes]).mean())


# ------------------------------------------------------------------------------------------- the experiments


_found: dict[tuple[object, ...], dict[str, float]] = {}
"""What a seed's trainings gave: all claims look at the same networks."""


def figures(setting: Setting) -> dict[str, float]:
    """HR and LR (``hr_…``, ``lr_…``) of the networks "pretrained" and of `ADAPTED`, and `alpha_gap`."""
    key = setting.key
    if key not in _found:
        _found[key] = _paper(setting) if setting.scale == "paper" else _small(setting)
    return _found[key]


def _small(setting: Setting) -> dict[str, float]:
    data = world(setting)
    plain = pretrained(setting, data)
    found: dict[str, float] = {}
    found["hr_pretrained"], found["lr_pretrained"] = measured(plain, data, setting.device)
    for name in ADAPTED:
        network = adapted(setting, data, plain, name)
        found[f"hr_{name}"], found[f"lr_{name}"] = measured(network, data, setting.device)
        if name == "twin":
            weight: Any = network.cpu().get_submodule("weight")
            good, low = (weight.alpha(_qualities(weight, crops)).mean() for crops in (data.good, data.low))
            found["alpha_gap"] = float(good - low)
    return found


def _compared(setting: Setting, baseline: str, idea: str) -> Measured:
    """The best of the networks whose names begin with `baseline` against `idea`."""
    found = figures(setting)
    return Measured(
        baseline=max(value for name, value in found.items() if name.startswith(baseline)),
        idea=found[idea],
        details=found,
    )


def remembers(setting: Setting) -> Measured:
    """HR of twin adapters against full fine-tuning."""
    return _compared(setting, "hr_full", "hr_twin")


def keeps(setting: Setting) -> Measured:
    """HR of twin adapters against the network before."""
    return _compared(setting, "hr_pretrained", "hr_twin")


def learns(setting: Setting) -> Measured:
    """LR of twin adapters against the network before."""
    return _compared(setting, "lr_pretrained", "lr_twin")


def learns_more(setting: Setting) -> Measured:
    """LR of twin adapters against full fine-tuning."""
    return _compared(setting, "lr_full", "lr_twin")


# ------------------------------------------------------------------------------------------- the paper's scale


def recipe(setting: Setting, name: str, data: Path, numbers: Mapping[str, Any], **more: Any) -> AdaptersRecipe:
    """A training of this setting, in the folder `name` of it."""
    from mien.train.recipes.adapters import AdaptersRecipe

    options: dict[str, Any] = {
        **numbers, **more, "data": str(data), "out": str(setting.out / name), "seed": setting.seed,
        "device": setting.device, "tensorboard": "no",
    }  # fmt: skip
    if setting.steps is not None:
        options["steps"] = setting.steps
    return AdaptersRecipe.make(**options)


def _teller(setting: Setting, name: str) -> Callable[[Progress], None]:
    return lambda done: setting.told(done.step, done.steps, f"{name}, loss {done.loss:.3f}")


def _paper(setting: Setting) -> dict[str, float]:
    """The released network on a large set, then on TinyFace's training part."""
    from mien.papers.petalface import identify, read_tinyface
    from mien.train.loop import fit

    if setting.folder is None or setting.data_root is None:
        raise OptionError(
            "the paper's scale needs a large set of people, and TinyFace beside it", got="no folder",
            expected=" or ".join(LARGE) + ", and tinyface with Training_Set and Testing_Set",
            hint="give the folder that holds them with --data-root",
        )  # fmt: skip
    tiny = setting.data_root / "tinyface"
    test = read_tinyface(tiny)
    first = recipe(setting, "pretrained", setting.folder, PRETRAIN)
    runs = {"pretrained": first}
    for name, kind in (("full", "none"), ("everywhere", "everywhere"), ("twin", "twin")):
        base = f"{first.out}/weights.safetensors"
        runs[name] = recipe(setting, name, tiny / "Training_Set", ADAPT, adapters=kind, base=base)
    found: dict[str, float] = {}
    for name, run in runs.items():
        result = fit(run, progress=_teller(setting, name))
        network = run.trained(result.weights)
        people = first.compared_with(network)
        probes, gallery, others = (
            run.embedded_files(network, files) for files in (test.probes, test.gallery, test.distractors)
        )
        ranks = identify(probes, test.probe_people, gallery, test.gallery_people, others)
        found |= {f"hr_{name}": people.get("val", 0.0), f"lr_{name}": ranks["rank1"]}
        found |= {f"{rank}_{name}": value for rank, value in ranks.items() if rank != "rank1"}
    return found


ON: tuple[str, ...] = ("heads", "patterns", "cfp", "celeba10k")
LARGE: tuple[str, ...] = ("faces_webface_112x112", "faces_emore")
"""Public sets of named people, by the names of their folders."""

HR, LR = "TAR at FAR 1e-2, good pictures", "rank 1, 7 px among good pictures"

CLAIMS = (
    Claim(
        slug="petalface", name="forgets-less-than-full-fine-tuning", metric=HR, better="higher", margin=0.15,
        says="After adaptation to low resolution, twin adapters know good pictures better than a network of which "
        "everything was trained.",
        data=ON, paper_data=LARGE, run=remembers,
    ),
    Claim(
        slug="petalface", name="keeps-high-resolution", metric=HR, better="higher", margin=-0.06,
        says="Twin adapters lose little of what the network knew of good pictures.",
        data=ON, paper_data=LARGE, run=keeps,
    ),
    Claim(
        slug="petalface", name="learns-low-resolution", metric=LR, better="higher", margin=0.0,
        says="Twin adapters recognise people of low resolution better than the network before.",
        data=ON, paper_data=LARGE, run=learns,
    ),
    Claim(
        slug="petalface", name="learns-more-than-full-fine-tuning", metric=LR, better="higher", margin=0.15,
        says="From few people, twin adapters learn low resolution better than a network of which everything is "
        "trained.",
        data=ON, paper_data=LARGE, run=learns_more,
    ),
)  # fmt: skip
