"""SwinFace's claims: branches that see all levels read local attributes better, people are told apart as before.

Small scale: a Swin transformer of four stages (64 px, patches of 4 px, width 16 to 128) learns to tell people apart
(CosFace, four times `PRETRAIN` steps of a quarter of a batch). Then it learns all tasks, from batches of four streams,
at a tenth of the rate in the backbone. Everything is as in the paper, but small: eleven branches of attention to levels
and channels, 42 losses, the age loss along its curriculum. Of one tenth of the training ages, a random age takes the
place of the true one, in all arms. The arms are

    levels      as the paper has it
    last        the same branches, which see the last stage alone
    square      the paper's branches; half the squared error is the age loss throughout
    alone       recognition alone, from as many rows of people

Compared are heads of people that are in no training set. "Local" is the mean accuracy of four attributes that change
from picture to picture and are seen in a small place (`LOCAL`). The eps-error is that of CLAP2015, with a deviation of
`DEVIATION` years for the annotators that rendered heads have not; ages are those of
`mien.train.streams.years_of`. The age loss is compared by the quotient of the two eps-errors.

The margins are those of the description of the paper that this was built from. What the channel gate adds is not
claimed: that description expects 0 to 0.5 points, within the noise here.

At the paper's scale the recipe's presets "pretrain" and "paper" train the released network on a public set of people
and, beside it, "celeba" (CelebA's lists and pictures), "ages" and "expressions" (tables or folders that
`mien.train.streams.labelled` understands); figures are of what the recipe holds out. No label is spoilt there,
IMDB-WIKI being so by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.claims.harness import Claim, Measured, Setting
from mien.errors import MediaNotFound, OptionError
from mien.metrics import auc
from mien.nn.streams import ATTRIBUTES, analysis_losses
from mien.train.schedule import rate
from mien.train.streams import STREAMS, Labelled, Name, StreamDraws, Streams, rendered, seen

if TYPE_CHECKING:
    from mien.train.loop import Progress
    from mien.train.recipes.streams import StreamsRecipe

SIZE, DIM = 64, 64
NETWORK: dict[str, Any] = {
    "size": SIZE, "patch": 4, "embed_dim": 16, "depths": (1, 1, 2, 1), "heads": (1, 2, 4, 4), "window": 4, "dim": DIM,
    "drop_path": 0.0,
}  # fmt: skip
ANALYSIS: dict[str, Any] = {"hidden": 16, "dropout": 0.1}
LOCAL = ("Eyeglasses", "Mouth_Slightly_Open", "Wearing_Lipstick", "Rosy_Cheeks")
PEOPLE, PICTURES, OTHERS = 150, 8, 60
"""People to learn from, pictures of each, people to compare."""
PRETRAIN, STEPS, BATCH = 180, 170, 64
RATE, BACKBONE, CLIP, DECAY = 2e-3, 0.1, 5.0, 0.05
MARGIN, SCALE = 0.2, 16.0
WRONG, DEVIATION = 0.1, 5.0
"""Share of wrong ages; years."""
ARMS: Mapping[str, Mapping[str, Any]] = {
    "levels": {"feature": "all", "gaussian": True},
    "last": {"feature": "global", "gaussian": True},
    "square": {"feature": "all", "gaussian": False},
    "alone": {},
}


@dataclass(frozen=True)
class World:
    """Heads to learn from, with some wrong ages, and others to compare."""

    learnt: Labelled
    compared: Labelled


@functools.lru_cache(maxsize=1)
def world(seed: int) -> World:
    """The data of a seed; all claims look at the same."""
    numbers = {"seed": 7 * seed + 3, "size": SIZE, "per_identity": PICTURES}
    learnt = rendered(PEOPLE * PICTURES, **numbers)
    compared = rendered(OTHERS * PICTURES, first=PEOPLE * PICTURES, **numbers)
    rng = np.random.default_rng([seed, 31])
    age = learnt.age.copy()
    rows = rng.permutation(len(age))[: round(WRONG * len(age))]
    age[rows] = rng.uniform(20, 80, len(rows)).astype(np.float32)
    return World(replace(learnt, age=age), compared)


# ------------------------------------------------------------------------------------------- training


def _fit(
    setting: Setting, network: nn.Module, streams: tuple[Name, ...], data: Labelled, *, steps: int, pace: float,
    gaussian: bool, what: str,
) -> None:  # fmt: skip
    """Trains a network on some of the streams, as many rows of each as a batch of all four has."""
    torch.manual_seed(setting.seed + 1)
    head = nn.Parameter(torch.randn(int(data.person.max()) + 1, DIM, device=setting.device) * 0.01)
    images = torch.from_numpy(seen(np.asarray(data.pictures)))
    labels = {
        "label": torch.from_numpy(data.person), "age": torch.from_numpy(data.age),
        "attributes": torch.from_numpy(data.attributes), "expression": torch.from_numpy(data.expression),
    }  # fmt: skip
    each = BATCH // len(STREAMS)
    source = Streams({name: [data] for name in streams}, size=SIZE)
    draws = StreamDraws(source, batch=each * len(streams), seed=setting.seed)
    rows: dict[str, slice] = {name: slice(k * each, (k + 1) * each) for k, name in enumerate(streams)}
    backbone = getattr(network, "backbone", None)
    slow = list(backbone.parameters()) if backbone is not None else []
    fast = [p for p in network.parameters() if not any(p is one for one in slow)]
    groups = [{"params": [*fast, head], "pace": 1.0}, {"params": slow, "pace": pace}]
    update = torch.optim.AdamW([group for group in groups if group["params"]], RATE, weight_decay=DECAY)
    clipped = slow or fast
    generator = torch.Generator().manual_seed(setting.seed + 2)
    steps = steps if setting.steps is None else min(steps, setting.steps)
    network.train()
    for step in range(steps):
        for group in update.param_groups:
            group["lr"] = RATE * rate(step, steps, warmup=steps // 20) * group["pace"]
        at = [draws.index(step * draws.batch + place) % len(data) for place in range(draws.batch)]
        some = images[at]
        mirrored = torch.rand(len(some), generator=generator) < 0.5
        some[mirrored] = some[mirrored].flip(3)
        batch = {name: values[at].to(setting.device) for name, values in labels.items()}
        answers = network(some.to(setting.device))
        answers = {"recognition": answers} if isinstance(answers, Tensor) else answers
        z, own = answers["recognition"][rows["people"]], batch["label"][rows["people"]]
        cosines = F.normalize(z) @ F.normalize(head).T
        loss = F.cross_entropy(SCALE * (cosines - MARGIN * F.one_hot(own, len(head))), own)
        if "age" in answers:
            losses = analysis_losses(answers, batch, rows, done=step / steps, gaussian=gaussian)
            loss = loss + torch.stack(list(losses.values())).sum()
        update.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(clipped, CLIP)
        update.step()
        if step % 10 == 0:
            setting.told(step, steps, f"{what}, loss {loss.item():.3f}")
    network.eval()


def pretrained(setting: Setting, data: World) -> nn.Module:
    """A backbone that tells people apart; four times as many of them in a batch as later on."""
    from mien.papers.swinface import swin_t

    torch.manual_seed(setting.seed)
    network = swin_t(**NETWORK).to(setting.device)
    _fit(setting, network, ("people",), data.learnt, steps=4 * PRETRAIN, pace=1.0, gaussian=False, what="pretraining")
    return network


def trained(setting: Setting, data: World, backbone: nn.Module, arm: str) -> nn.Module:
    """The network of an arm, from the pretrained backbone."""
    from mien.papers.swinface import swinface

    torch.manual_seed(setting.seed)
    numbers = dict(ARMS[arm])
    gaussian = numbers.pop("gaussian", False)
    whole = swinface(**NETWORK, **ANALYSIS, **numbers).to(setting.device)
    whole.backbone.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        age: Any = whole.analysis.answers[1]
        age.bias[0] = float(np.mean(data.learnt.age))  # within a few hundred steps no layer finds it from zero
    streams: tuple[Name, ...] = STREAMS if numbers else ("people",)
    network: nn.Module = whole if numbers else _Alone(whole.backbone)
    _fit(setting, network, streams, data.learnt, steps=STEPS, pace=BACKBONE, gaussian=gaussian, what=arm)
    return network


class _Alone(nn.Module):
    """A backbone that keeps its name, and so its pace."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        z: Tensor = self.backbone(images)
        return z


def measured(network: nn.Module, part: Labelled, streams: tuple[Name, ...] = STREAMS) -> dict[str, float]:
    """Figures on a set: `auc` of all pairs, and, where the network tells them, `local`, `young`, `eps`, `mae`.

    Only those of the named streams: the "people" of a set of expressions are none.
    """
    from mien.train.recipes.streams import answers_of

    size: Any = getattr(network, "backbone", network).size
    found = answers_of(network, part, size=size, mirror=True)
    figures: dict[str, float] = {}
    if "people" in streams and 1 < len(np.unique(part.person)) < len(part):
        z = found["recognition"].numpy()
        first, second = np.triu_indices(len(z), 1)
        figures["auc"] = float(auc((z @ z.T)[first, second], part.person[first] == part.person[second]))
    if "attributes" in streams and "attributes" in found:
        right = (found["attributes"].argmax(2).numpy() == part.attributes).astype(np.float64)
        right[~np.isfinite(part.attributes)] = np.nan
        means = {
            name: float(np.nanmean(column))
            for name, column in zip(ATTRIBUTES, right.T, strict=True)
            if np.isfinite(column).any()
        }
        if set(LOCAL) <= means.keys():
            figures["local"] = float(np.mean([means[name] for name in LOCAL]))
            figures |= {f"local_{name.lower()}": means[name] for name in LOCAL}
        if "Young" in means:
            figures["young"] = means["Young"]
    if "age" in streams and "age" in found and (told := np.isfinite(part.age)).any():
        away = (found["age"][:, 0].numpy() - part.age)[told].astype(np.float64)
        figures["mae"] = float(np.abs(away).mean())
        figures["eps"] = float(1 - np.exp(-(away**2) / (2 * DEVIATION**2)).mean())
    return figures


# ------------------------------------------------------------------------------------------- the experiments


_found: dict[tuple[object, ...], dict[str, float]] = {}
"""What a seed's trainings gave: all claims look at the same networks."""


def figures(setting: Setting) -> dict[str, float]:
    """Figures of all arms, ``levels_local`` and so on, and those of the backbone before, ``pretrained_auc``."""
    key = setting.key
    if key not in _found:
        _found[key] = _paper(setting) if setting.scale == "paper" else _small(setting)
    return _found[key]


def _small(setting: Setting) -> dict[str, float]:
    setting.told(0, None, "drawing heads")
    data = world(setting.seed)
    backbone = pretrained(setting, data)
    found = {f"pretrained_{name}": value for name, value in measured(backbone, data.compared).items()}
    for arm in ARMS:
        network = trained(setting, data, backbone, arm)
        found |= {f"{arm}_{name}": value for name, value in measured(network, data.compared).items()}
    return found


def _compared(setting: Setting, baseline: str, idea: str) -> Measured:
    found = figures(setting)
    return Measured(baseline=found[baseline], idea=found[idea], details=found)


def reads_locally(setting: Setting) -> Measured:
    """Local attributes, all levels against the last."""
    return _compared(setting, "last_local", "levels_local")


def levels_keep_people(setting: Setting) -> Measured:
    """AUC of pairs, all levels against the last."""
    return _compared(setting, "last_auc", "levels_auc")


def tasks_keep_people(setting: Setting) -> Measured:
    """AUC of pairs, all tasks against recognition alone."""
    return _compared(setting, "alone_auc", "levels_auc")


def forgives(setting: Setting) -> Measured:
    """The eps-error of the curriculum, in units of that of the squared error."""
    found = figures(setting)
    return Measured(baseline=1.0, idea=found["levels_eps"] / max(found["square_eps"], 1e-9), details=found)


# ------------------------------------------------------------------------------------------- the paper's scale


BEFORE: dict[str, Any] = {"preset": "pretrain", "held": 0.02}
AFTER: dict[str, Any] = {"preset": "paper", "held": 0.02, "age_shares": (), "expression_shares": ()}
"""Numbers of both trainings."""
ALONE: dict[str, Any] = {"network": "mien.papers.swinface:swin_t", "batch_size": 128, "lr": 5e-5}
"""A quarter of the batch, and a tenth of the rate, are what the backbone sees of people in the other arms."""
BESIDE = ("celeba", "ages", "expressions")
"""Folders or tables beside the set of people."""


def recipe(setting: Setting, name: str, numbers: Mapping[str, Any], **more: Any) -> StreamsRecipe:
    """A training of this setting, in the folder `name` of it."""
    from mien.train.recipes.streams import StreamsRecipe

    options: dict[str, Any] = {
        **numbers, **more, "out": str(setting.out / name), "seed": setting.seed, "device": setting.device,
        "tensorboard": "no",
    }  # fmt: skip
    if setting.steps is not None:
        options["steps"] = setting.steps
    return StreamsRecipe.make(**options)


def _teller(setting: Setting, name: str) -> Callable[[Progress], None]:
    return lambda done: setting.told(done.step, done.steps, f"{name}, loss {done.loss:.3f}")


def _beside(root: Path, name: str) -> str:
    places = [place for place in (root / name, root / f"{name}.csv") if place.exists()]
    if not places:
        raise MediaNotFound(f"the paper's scale needs {name} beside the set of people", got=root,
                            expected=[f"{one} or {one}.csv" for one in BESIDE])  # fmt: skip
    return str(places[0])


def _paper(setting: Setting) -> dict[str, float]:
    """The released network: recognition on a large set, then all tasks, in the four arms."""
    from mien.train import checkpoint
    from mien.train.loop import fit

    if setting.folder is None or setting.data_root is None:
        raise OptionError(
            "the paper's scale needs a large set of people, and others beside it", got="no folder",
            expected=f"{' or '.join(LARGE)}, and {', '.join(BESIDE)}",
            hint="give the folder that holds them with --data-root",
        )  # fmt: skip
    people = str(setting.folder)
    celeba, ages, expressions = (_beside(setting.data_root, name) for name in BESIDE)
    first = recipe(setting, "pretrained", BEFORE, people=people)
    base = str(fit(first, progress=_teller(setting, "pretrained")).weights)
    found: dict[str, float] = {}
    for arm, numbers in ARMS.items():
        if numbers:
            run = recipe(
                setting, arm, AFTER, people=people, ages=(ages,), attributes=celeba, expressions=(expressions,),
                base=base, gaussian=numbers["gaussian"],
                arguments=(*AFTER.get("arguments", ()), f"feature={numbers['feature']!r}"),
            )  # fmt: skip
        else:
            run = recipe(setting, arm, {**AFTER, **ALONE}, people=people, base=base)
        result = fit(run, progress=_teller(setting, arm))
        network = run.deploy(run.build())
        checkpoint.fill(network, result.weights)
        network.eval()
        for stream, part in run.held_parts().items():
            found |= {f"{arm}_{name}": value for name, value in measured(network, part, (stream,)).items()}
    return found


LARGE: tuple[str, ...] = ("faces_emore", "faces_webface_112x112")
"""Public sets of named people, by the names of their folders."""

CLAIMS = (
    Claim(
        slug="swinface", name="levels-read-local-attributes", metric="accuracy of four local attributes",
        better="higher", margin=0.01,
        says="Branches that see all levels tell local attributes better than those that see the last one alone.",
        data=("heads",), paper_data=LARGE, run=reads_locally,
    ),
    Claim(
        slug="swinface", name="levels-leave-recognition-alone", metric="AUC of all pairs of other people",
        better="higher", margin=-0.01,
        says="Whether the branches see all levels or the last one, people are told apart as well.",
        data=("heads",), paper_data=LARGE, run=levels_keep_people,
    ),
    Claim(
        slug="swinface", name="tasks-do-not-hurt-recognition", metric="AUC of all pairs of other people",
        better="higher", margin=-0.01,
        says="A network that learns all tasks tells people apart as well as one that goes on with recognition alone.",
        data=("heads",), paper_data=LARGE, run=tasks_keep_people,
    ),
    Claim(
        slug="swinface", name="curriculum-forgives-wrong-ages", metric="eps-error, that of the squared error being 1",
        better="lower", margin=0.05,
        says="With one age in ten wrong, the curriculum of age losses errs less than the squared error.",
        data=("heads",), paper_data=LARGE, run=forgives,
    ),
)  # fmt: skip
