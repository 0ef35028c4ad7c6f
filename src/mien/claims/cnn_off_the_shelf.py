"""The claims of CNN features off-the-shelf: frozen features of another task beat pixels, and jitter does not hurt.

Small scale, minutes on one core. A network of four convolutions learns 200 people by a softmax and is frozen. What is
probed are pictures of other people, 400 to train linear machines on and 600 to judge, with attributes that no network
was told of. Baselines are the pixels, and the same network with random numbers (and normalisations that fit them). All
features are of unit length; C is 0.1, 1 or 10, by cross-validation on the 400. The figure is the mean average precision
over attributes.

- "heads": rendered people, 10 pictures of each for the network and one of each probed person. Attributes are those of
  the 36 that a person keeps (pose, light and dress change none of them) and that 15 to 85 % of people have.
- "patterns": the made-up world of `mien.claims._patterns` with strong nuisance; an attribute is the sign of one of the
  first six identity factors, of which the network never saw more than who is who.
- "celeba10k": the network learns the 500 people of "cfp"; of CelebA's people half are trained on (1,500 pictures) and
  the others judged (1,500). All of the 40 attributes that 5 to 95 % of the pictures have.

The statement needs a nuisance that is not linear in pixels: in faces that are cut by five points, pixels are nearly as
good as anything. So all crops, those the network learns from too, are turned by up to 43 degrees, scaled by 37 %,
shifted by 15 % of their side and lit by a factor of 0.5 to 1.5, as the world of patterns is by itself. The network sees
each of its crops six times, shaken anew, and six times as many patterns.

Jitter is the gentle one, turned and scaled, since crops of two thirds cut parts of a face away; the paper's sixteen and
the signed square are in the details. Mirrors are left out for patterns, which have no symmetry. For the claim on jitter
both sides use the solver that the paper uses with jitter (LIBLINEAR's primal).

The margins (0.04 and 0) were written down with the description of the paper that this was built from, before any run.
In a first trial, on patterns, the network saw 10 pictures of each person once; it knew all of them by heart after 200
of its 500 steps, and was 0.02 above pixels. So it gets six times as many. In one on celeba10k its loss after 500 steps
was 4.6, where 6.2 is a guess, and it was 0.03 above pixels; so it has 2,000 steps there. Nothing else was changed.

At the paper's scale the network is OverFeat, from the file ``net_weight_1`` in the folder of sets; 5,000 pictures of
CelebA train, and 5,000 of other people judge, about as many as in VOC 2007; jitter is the paper's sixteen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from mien.claims import _people
from mien.claims._patterns import STRONG, Nuisance, patterns
from mien.claims._small import FourConvolutions, fit_in_memory, four_convolutions
from mien.claims.harness import Claim, Measured, Setting
from mien.data.pixels import Picture
from mien.errors import OptionError, WeightsUnavailable
from mien.papers.cnn_off_the_shelf import (
    ORIGINAL,
    Backbone,
    backbone,
    described,
    fitted,
    gentle_views,
    mean_figure,
    of_module,
    paper_views,
    transformed,
)
from mien.weights import InputContract

SIZE, DIM = 48, 128
PEOPLE, PICTURES = 200, 10
DRAWS = 6
"""How often each picture of the people is shaken anew; of patterns, which cost nothing, as many more are drawn."""

TRAIN, TEST = 400, 600
REAL_TRAIN, REAL_TEST = 1500, 1500
STEPS, BATCH, LR = {"heads": 500, "patterns": 500, "celeba10k": 2000}, 64, 2e-3
CS, FOLDS = (0.1, 1.0, 10.0), 3
CONV, EMBEDDING = "11", "output"
"""Layers of `FourConvolutions`: the last ReLU, averaged over its places, and the embedding."""

FACTORS = 6
"""Identity factors of the patterns that are attributes."""

OFTEN = {"heads": 0.15, "celeba10k": 0.05}
"""Attributes that are rarer than this, or whose absence is, are left out."""

PAPER: dict[str, Any] = {
    "network": "mien.papers.cnn_off_the_shelf:overfeat_large", "file": "net_weight_1", "train": 5000, "test": 5000,
    "batch": 64, "pixels": 56,
}  # fmt: skip

Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Data(NamedTuple):
    """What a seed works on: people for the network; and probed pictures, their attributes, and which of them judge."""

    crops: Picture
    labels: Ints
    probed: Picture
    attributes: Flags
    test: Flags
    people: Ints


# ------------------------------------------------------------------------------------------- data


def shaken(crops: Picture, seed: int, nuisance: Nuisance = STRONG) -> Picture:
    """Crops (n, S, S, 3) turned, scaled, shifted and lit at random; what they lack at the edge is mirrored."""
    import cv2

    rng = np.random.default_rng([seed, 29])
    count, side = len(crops), crops.shape[1]
    angle = rng.uniform(-nuisance.angle, nuisance.angle, count)
    scale = rng.uniform(1 - nuisance.scale, 1 + nuisance.scale, count)
    shift = rng.uniform(-nuisance.shift, nuisance.shift, (count, 2)) * side / 2
    gain = rng.uniform(*nuisance.gain, count)
    found = np.empty_like(crops)
    for row, crop in enumerate(crops):
        matrix = cv2.getRotationMatrix2D(((side - 1) / 2,) * 2, angle[row], scale[row])
        matrix[:, 2] += shift[row]
        turned = cv2.warpAffine(crop, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        found[row] = np.clip(np.rint(turned * gain[row]), 0, 255).astype(np.uint8)
    return found


def drawn(setting: Setting) -> Data:
    """The data of a setting."""
    makers: dict[str, Callable[[Setting], Data]] = {"heads": _heads, "patterns": _patterns, "celeba10k": _celeba}
    setting.told(0, None, f"data: {setting.data}")
    return makers[setting.data](setting)


def _heads(setting: Setting) -> Data:
    from mien.data.heads import attributes, sample

    # Other seeds are other people, so that nobody is on both sides.
    seed, other = 2 * setting.seed, 2 * setting.seed + 1
    crops, labels = _people.rendered(people=PEOPLE, pictures=PICTURES, size=SIZE, seed=seed, told=setting.told)
    probed, people = _people.rendered(people=TRAIN + TEST, pictures=1, size=SIZE, seed=other, told=setting.told)
    # As `rendered` draws them; what a person keeps is what a second picture of everybody has too.
    one = attributes(sample(TRAIN + TEST, seed=other, per_identity=1, occluder="none"))
    two = attributes(sample(2 * (TRAIN + TEST), seed=other, per_identity=2, occluder="none"))
    kept = (two[::2] == two[1::2]).all(0) & (two[::2] == one).all(0)
    chosen = kept & _often(one, OFTEN["heads"])
    return Data(*_drawn_often(crops, labels, seed), shaken(probed, other), one[:, chosen], _tail(), people)


def _patterns(setting: Setting) -> Data:
    known = patterns(PEOPLE, DRAWS * PICTURES, world=setting.seed, part=0, nuisance=STRONG)
    new = patterns(TRAIN + TEST, 1, world=setting.seed, part=1, nuisance=STRONG)
    return Data(known.crops, known.labels, new.crops, new.latent[:, :FACTORS] > 0, _tail(), new.labels)


def _celeba(setting: Setting) -> Data:
    from mien.data import sets

    root = setting.data_root
    crops, labels = _people.photographed("cfp", None if root is None else root / "cfp", size=SIZE)
    faces, people = _people.photographed("celeba10k", setting.folder, size=SIZE)
    attributes = sets.celeba10k(setting.folder).attributes
    rows, test = _halves(people, REAL_TRAIN, REAL_TEST, setting.seed)
    chosen = _often(attributes[rows], OFTEN["celeba10k"])
    return Data(
        *_drawn_often(crops, labels, setting.seed), shaken(faces[rows], setting.seed + 500),
        attributes[rows][:, chosen], test, people[rows],
    )  # fmt: skip


def _drawn_often(crops: Picture, labels: Ints, seed: int) -> tuple[Picture, Ints]:
    """Each crop shaken `DRAWS` times, and who is on it."""
    parts = [shaken(crops, 1000 * draw + seed) for draw in range(DRAWS)]
    return np.concatenate(parts), np.tile(labels, DRAWS)


def _tail() -> Flags:
    return np.arange(TRAIN + TEST) >= TRAIN


def _often(attributes: Flags, share: float) -> Flags:
    rate = attributes.mean(0)
    return np.asarray((rate >= share) & (rate <= 1 - share), bool)


def _halves(people: Ints, train: int, test: int, seed: int) -> tuple[Ints, Flags]:
    """Rows of `train` pictures of one half of the people and then `test` of the other, and which are of the latter."""
    rng = np.random.default_rng([seed, 31])
    names = rng.permutation(np.unique(people))
    second = np.isin(people, names[len(names) // 2 :])
    parts = [rng.permutation(np.flatnonzero(second == side))[:most] for side, most in ((False, train), (True, test))]
    return np.concatenate(parts), np.repeat([False, True], [len(part) for part in parts])


# ------------------------------------------------------------------------------------------- networks


def trained(setting: Setting, data: Data) -> FourConvolutions:
    """A network that tells the training people apart; its classifier is thrown away."""
    torch.manual_seed(setting.seed)
    network = four_convolutions(dim=DIM).to(setting.device)
    people = int(data.labels.max()) + 1
    classifier = nn.Linear(DIM, people).to(setting.device)
    network.train()
    fit_in_memory(
        data.crops, data.labels, lambda images, labels: F.cross_entropy(classifier(network(images)), labels),
        [*network.parameters(), *classifier.parameters()], steps=setting.steps or STEPS[setting.data],
        batch=BATCH, lr=LR, seed=setting.seed, optimiser="adamw", flip=setting.data != "patterns",
        device=setting.device, told=setting.told, what="people",
    )  # fmt: skip
    return network.eval()


def untrained(setting: Setting, data: Data) -> FourConvolutions:
    """The same network with random numbers; normalisations have the statistics of its maps, or it would see nothing."""
    torch.manual_seed(setting.seed + 1)
    network = four_convolutions(dim=DIM).to(setting.device)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over what it sees
    network.train()
    with torch.no_grad():
        for start in range(0, min(len(data.crops), 512), 128):
            some = np.ascontiguousarray(data.crops[start : start + 128])
            network(InputContract(size=some.shape[1]).tensor(some, device=setting.device))
    return network.eval()


# ------------------------------------------------------------------------------------------- the experiment


_found: dict[tuple[object, ...], dict[str, float]] = {}
"""Figures of a seed: both claims look at the same networks."""


def measured(setting: Setting) -> dict[str, float]:
    """Mean average precision by feature."""
    key = setting.key
    if key not in _found:
        _found[key] = _large(setting) if setting.scale == "paper" else _small(setting)
    return _found[key]


def _small(setting: Setting) -> dict[str, float]:
    data = drawn(setting)
    contract = InputContract(size=data.probed.shape[1])
    network = of_module(trained(setting, data), contract, name="trained")
    random = of_module(untrained(setting, data), contract, name="random")
    probe = _prober(data, setting)
    gentle = gentle_views(mirror=setting.data != "patterns")
    one = described(network, data.probed, [CONV, EMBEDDING])
    other = described(random, data.probed, [CONV, EMBEDDING])
    many = described(network, data.probed, [EMBEDDING], views=gentle, batch=256)[EMBEDDING]
    sixteen = described(network, data.probed, [EMBEDDING], views=paper_views(), batch=256)[EMBEDDING]
    pixels = data.probed.reshape(len(data.probed), 1, -1).astype(np.float32) / 255
    return {
        "pixels": probe("pixels", pixels),
        "random_conv": probe("random", other[CONV]),
        "random": probe("random", other[EMBEDDING]),
        "trained_conv": probe("convolution", one[CONV]),
        "trained": probe("embedding", one[EMBEDDING]),
        "plain": probe("embedding", one[EMBEDDING], solver="primal"),
        "jitter": probe("jitter", many),
        "paper_jitter": probe("sixteen", sixteen),
        "jitter_square": probe("jitter, squared", many, power=2.0),
        "chance": float(data.attributes[data.test].mean()),
        "attributes": float(data.attributes.shape[1]),
    }


def _prober(data: Data, setting: Setting) -> Callable[..., float]:
    """A function that gives the mean average precision of features (n, r, d)."""

    def probe(what: str, features: NDArray[np.float32], *, power: float = 1.0, solver: str | None = None) -> float:
        setting.told(0, None, f"probing {what}")
        x = transformed(features, power=power)
        test = data.test
        solver = solver or ("libsvm" if x.shape[1] == 1 else "primal")
        fit = fitted(
            x[~test], data.attributes[~test], groups=data.people[~test], cs=CS, folds=FOLDS, seed=setting.seed,
            solver=solver,  # type: ignore[arg-type]
        )  # fmt: skip
        return mean_figure(fit.classifier, x[test], data.attributes[test])

    return probe


def frozen(setting: Setting) -> Measured:
    """Frozen features of another task against pixels and a random network."""
    found = measured(setting)
    return Measured(
        baseline=max(found["pixels"], found["random_conv"], found["random"]), idea=found["trained"], details=found
    )


def jittered(setting: Setting) -> Measured:
    """The same features of several representations of a picture, their responses summed, against one."""
    found = measured(setting)
    return Measured(baseline=found["plain"], idea=found["jitter"], details=found)


# ------------------------------------------------------------------------------------------- the paper's scale


def _large(setting: Setting) -> dict[str, float]:
    """OverFeat's first hidden layer on CelebA; `steps` cuts the number of batches of pictures."""
    source, random = _overfeat(setting, random=False), _overfeat(setting, random=True)
    data = _celeba_large(setting, source.size)
    probe = _prober(data, setting)
    layer = source.layer

    def features(of: Backbone, views: Any) -> NDArray[np.float32]:
        return described(
            of, data.probed, [layer], views=views, rectify=True, batch=PAPER["batch"],
            progress=lambda done, total: setting.told(done, total, f"{len(views)} representations"),
        )[layer]  # fmt: skip

    one, many = features(source, (ORIGINAL,)), features(source, paper_views())
    pixels = _small_pixels(data.probed, PAPER["pixels"])
    rough = probe("random", features(random, (ORIGINAL,)))
    return {
        "pixels": probe("pixels", pixels), "random_conv": rough, "random": rough,
        "trained": probe("fc1", one), "plain": probe("fc1", one, solver="primal"),
        "jitter": probe("sixteen, squared", many, power=2.0), "jitter_no_square": probe("sixteen", many),
        "chance": float(data.attributes[data.test].mean()), "attributes": float(data.attributes.shape[1]),
    }  # fmt: skip


def _overfeat(setting: Setting, *, random: bool) -> Backbone:
    from mien.papers.cnn_off_the_shelf import OverFeat, layout, read_official
    from mien.papers.cnn_off_the_shelf.checkpoint import arranged
    from mien.weights.load import fill

    source = backbone(PAPER["network"], random=True, seed=setting.seed, device=setting.device)
    if random:
        return source
    if setting.data_root is None or not (file := setting.data_root / PAPER["file"]).is_file():
        raise WeightsUnavailable(
            "the paper's scale needs OverFeat's own file", got=setting.data_root, expected=PAPER["file"],
            hint="fetch it by OverFeat's script and put it into the folder of --data-root",
        )  # fmt: skip
    network = source.network
    assert isinstance(network, OverFeat)
    slots = layout(network)
    fill(network, arranged(read_official(file, slots=slots), slots), source=str(file))
    return source


def _celeba_large(setting: Setting, side: int) -> Data:
    """CelebA from its own lists, aligned pictures as they come."""
    import cv2

    from mien.data.formats import read_celeba

    if setting.folder is None:
        raise OptionError("the paper's scale needs CelebA", got="no folder", hint="give it with --data-root")
    samples = read_celeba(setting.folder)
    people = samples.labels
    if people is None:
        raise OptionError("CelebA's list of people is needed", got=setting.folder, expected="identity_CelebA.txt")
    train, test = PAPER["train"], PAPER["test"]
    if setting.steps is not None:
        train, test = (min(most, setting.steps * PAPER["batch"]) for most in (train, test))
    rows, held = _halves(people, train, test, setting.seed)
    names = [name for name, column in samples.columns.items() if np.asarray(column).dtype == bool]
    attributes = np.stack([np.asarray(samples.columns[name])[rows] for name in names], 1)
    chosen = _often(attributes[~held], OFTEN["celeba10k"]) & attributes[held].any(0)
    canvas = (round(1.5 * side),) * 2
    pictures = np.empty((len(rows), *canvas, 3), np.uint8)
    for place, row in enumerate(rows):
        pictures[place] = cv2.resize(samples.picture(int(row)), canvas, interpolation=cv2.INTER_LINEAR)
    nothing = np.zeros(0, np.uint8)
    return Data(nothing, nothing.astype(np.int64), pictures, attributes[:, chosen], held, people[rows])


def _small_pixels(pictures: Picture, side: int) -> NDArray[np.float32]:
    import cv2

    small = np.empty((len(pictures), side, side, 3), np.float32)
    for row, picture in enumerate(pictures):
        small[row] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return small.reshape(len(small), 1, -1)


ON: tuple[str, ...] = ("heads", "patterns", "celeba10k")
METRIC = "mean average precision of attributes"

CLAIMS = (
    Claim(
        slug="cnn_off_the_shelf", name="frozen-features", metric=METRIC, better="higher", margin=0.04,
        says="Frozen features of a network trained for another task tell attributes better, by a linear machine, than "
        "pixels or a random network do.",
        data=ON, paper_data=("celeba",), run=frozen,
    ),
    Claim(
        slug="cnn_off_the_shelf", name="jitter", metric=METRIC, better="higher", margin=0.0,
        says="Several jittered representations of a picture, their responses summed, tell attributes better than one.",
        data=ON, paper_data=("celeba",), run=jittered,
    ),
)  # fmt: skip
