"""Released checkpoints and those of our own training into ours, and the reader for `mien analyze`.

A released file holds ``epoch``, ``model_state_dict`` and ``optimizer_state_dict``. Its networks are told apart by their
names: ``features.*`` (the graph on DenseNet), ``model.*`` (the graph on BReG-NeXt), ``model_base.*`` with two linear
layers (multi-task). A graph's word vectors are in none: the code hands them over with every picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.affect import kind_of
from mien.data.word_vectors import word_vectors
from mien.errors import CheckpointError, OptionError, WeightsUnavailable
from mien.faces import EXPRESSIONS
from mien.nn.affect import MEAN, STD, GraphNetwork, affect_network, cached, nodes
from mien.nn.count import count_macs, count_parameters
from mien.nn.label_graph import AFFECT, EMOTIONS, adjacency, affectnet_correlations, edges, propagation
from mien.papers.emotion_gcn import network as networks
from mien.weights import InputContract, Weights
from mien.weights.converted import noted
from mien.weights.load import fill, read_state

DEAD = ("model._fc0.weight", "model._fc0.bias")
"""Tensors of a released BReG-NeXt that its code never uses."""
BESIDE = ("emb*.pkl", "emb*.pt", "emb*.npy", "emb*.safetensors", "glove*.txt")
"""What a file of word vectors beside a checkpoint is called."""


class Shape(NamedTuple):
    """Which builder of this paper a checkpoint is of, with which arguments, and whether it has a graph."""

    builder: str
    arguments: dict[str, Any]
    graph: bool


# ------------------------------------------------------------------------------------------- released names


def _opened(state: Any) -> Any:
    """The model's tensors of a released file, without what optimisers keep and without a wrapper's prefix."""
    if isinstance(state, Mapping) and isinstance(inner := state.get("model_state_dict"), Mapping):
        state = inner
    return {str(k).removeprefix("module."): v for k, v in state.items()} if isinstance(state, Mapping) else state


def _refused(what: str, tensors: Mapping[str, Any]) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint is not one of Emotion-GCN's networks: {what}",
        got=f"{len(tensors)} tensors, the first {next(iter(tensors), 'none')!r}",
        expected="a checkpoint of Emotion-GCN on DenseNet or BReG-NeXt, or of the multi-task DenseNet",
    )


def _numbers(state: Mapping[str, Tensor], pattern: str) -> dict[int, int]:
    """Of names with two numbers: how many second numbers each first one has."""
    pairs = {tuple(map(int, found.groups())) for name in state if (found := re.fullmatch(pattern, name))}
    firsts = sorted({first for first, _ in pairs})
    return {first: 1 + max(second for one, second in pairs if one == first) for first in firsts}


def shape_of(state: Mapping[str, Tensor]) -> Shape:
    """Builder and arguments of a released state dict.

    Raises
    ------
    CheckpointError
        The tensors that tell them are missing.
    """
    try:
        if "model._conv0.weight" in state:
            stacks = _numbers(state, r"model\._model\.(\d+)\._layer_stack\.(\d+)\._conv0\.weight")
            widths = tuple(
                int(state[f"model._model.{stack}._layer_stack.0._conv1.weight"].shape[0])
                for stack in stacks
                if stack % 2 == 0
            )
            depths = tuple(count for stack, count in stacks.items() if stack % 2 == 0)
            hidden, words, classes = _graph_sizes(state)
            return Shape("emotion_gcn_bregnext", {"classes": classes, "hidden": hidden, "word_dim": words,
                                                  "widths": widths, "depths": depths}, True)  # fmt: skip
        prefix = "features" if "features.conv0.weight" in state else "model_base"
        layers = _numbers(state, rf"{prefix}\.denseblock(\d+)\.denselayer(\d+)\.conv1\.weight")
        sizes = {
            "growth": int(state[f"{prefix}.denseblock1.denselayer1.conv2.weight"].shape[0]),
            "blocks": tuple(count - 1 for count in layers.values()),  # layers are counted from 1
            "width": int(state[f"{prefix}.conv0.weight"].shape[0]),
        }
        if prefix == "model_base":
            return Shape("multi_task", {"classes": int(state["lin_cat.weight"].shape[0]), **sizes}, False)
        hidden, words, classes = _graph_sizes(state)
        return Shape("emotion_gcn", {"classes": classes, "hidden": hidden, "word_dim": words, **sizes}, True)
    except (KeyError, IndexError, ValueError) as error:
        raise _refused(f"missing {error.args[0] if error.args else error}", state) from None


def _graph_sizes(state: Mapping[str, Tensor]) -> tuple[int, int, int]:
    words, hidden = state["gc1.weight"].shape
    return int(hidden), int(words), len(state["A"]) - len(AFFECT)


_BREG = {
    "_batchnorm_conv0": "norm1", "_conv0": "conv1", "_batchnorm_conv1": "norm2", "_conv1": "conv2",
    "_shortcut._a": "shortcut.a", "_shortcut._c": "shortcut.c",
}  # fmt: skip


def _renamed(name: str, starts: Sequence[int]) -> str:
    """Our name of a released tensor; itself where it has none."""
    if name.startswith("features."):
        return f"backbone.{name}"
    if name.startswith("model_base."):
        return f"backbone.features.{name.removeprefix('model_base.')}"
    if name.startswith(("gc1.", "gc2.")):
        return f"head.{name}"
    if name.startswith("lin_"):
        return name.replace("lin_cat.", "classes.").replace("lin_cont.", "affect.")
    if name.startswith("model._conv0."):
        return name.replace("model._conv0.", "backbone.stem.")
    if found := re.fullmatch(r"model\._model\.(\d+)\._layer_stack\.(\d+)\.(.+)", name):
        stack, layer, rest = int(found[1]), int(found[2]), found[3]
        for theirs, ours in _BREG.items():
            if (rest == theirs or rest.startswith(f"{theirs}.")) and stack < len(starts):
                return f"backbone.layers.{starts[stack] + layer}.{ours}{rest.removeprefix(theirs)}"
    if found := re.fullmatch(r"model\._model\.(\d+)\.(\w+)", name):
        # The normalisation after the last stack.
        return f"backbone.norm.{found[2]}" if int(found[1]) == len(starts) else name
    return name


def convert_official(state: Mapping[str, Any], *, vectors: Tensor | None = None) -> dict[str, Tensor]:
    """The state dict of one of this paper's networks from a released one; what is unknown or missing is an error.

    Parameters
    ----------
    state
        A released checkpoint, or its ``model_state_dict``. ``module.`` before all names is taken off. ``_fc0`` of
        BReG-NeXt, which nothing uses, is left out; A becomes what is propagated by, A transposed.
    vectors
        (classes + 2, d) word vectors for a network with a graph, which a released file never holds. Without them the
        result lacks ``head.vectors`` and nothing else.

    Returns
    -------
    dict
        Float32 tensors that fit the network of `shape_of` strictly.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown, of another shape or not finite.
    """
    opened = _opened(state)
    if not all(isinstance(value, Tensor | np.ndarray) for value in opened.values()):
        odd = [name for name, value in opened.items() if not isinstance(value, Tensor | np.ndarray)]
        raise _refused(f"{odd[:4]} are no tensors", opened)
    tensors = {name: torch.as_tensor(value) for name, value in opened.items()}
    shape = shape_of(tensors)
    with torch.device("meta"):
        try:
            made: nn.Module = getattr(networks, shape.builder)(**shape.arguments)
        except OptionError as error:
            raise _refused(str(error), tensors) from error
    expected = {name: value.shape for name, value in made.state_dict().items()}
    stacks = _numbers(tensors, r"model\._model\.(\d+)\._layer_stack\.(\d+)\._conv0\.weight")
    starts = [sum(list(stacks.values())[:number]) for number in range(len(stacks))]
    ours: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in DEAD:
            continue
        if name == "A" and shape.graph:
            rows = value.double().sum(1) if value.ndim == 2 and value.shape[0] == value.shape[1] else None
            if rows is None or not bool((rows > 0).all()):
                raise _refused(f"A of shape {tuple(value.shape)} is no matrix of edges", tensors)
            ours["head.graph"] = torch.from_numpy(propagation(value.double().numpy()))
        else:
            renamed = _renamed(name, starts)
            ours[renamed] = (
                value.reshape(()) if renamed.endswith(("shortcut.a", "shortcut.c")) and value.numel() == 1 else value
            )
    if vectors is not None and shape.graph:
        ours["head.vectors"] = vectors
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    given_later = {"head.vectors"} if vectors is None else set()
    told = {
        "missing": sorted(expected.keys() - ours.keys() - counters - given_later),
        "unknown": sorted(ours.keys() - expected.keys()),
        "of another shape": sorted(
            f"{name} {tuple(ours[name].shape)} for {tuple(expected[name])}"
            for name in ours.keys() & expected.keys()
            if ours[name].shape != expected[name]
        ),
        "not finite": sorted(name for name, value in ours.items() if not bool(torch.isfinite(value).all())),
    }
    if any(told.values()):
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
            for kind, names in told.items()
            if names
        ]
        raise _refused("; ".join(parts), tensors)
    zero = torch.zeros((), dtype=torch.int64)
    return {
        name: ours.get(name, zero) if name in counters else ours[name].float()
        for name in expected
        if name in ours or name in counters
    }


# ------------------------------------------------------------------------------------------- for the verbs

SIZES = ("growth", "blocks", "width", "widths", "depths")
RUN = ("hidden", "word_dim", *SIZES)
"""Numbers of a run of `mien train affect` that say what its network looks like."""


def import_official(
    file: str | Path,
    out: str | Path,
    *,
    name: str = "emotion_gcn",
    vectors: str | Path | None = None,
    size: int | None = None,
    template: str | None = None,
) -> Weights:
    """Converts a checkpoint into a reader, whose graph has been computed, and declares it.

    ``mien weights import emotion_gcn FILE --name X`` keeps both for all later sessions; then ``mien analyze --reader
    X``.

    Parameters
    ----------
    file
        A released checkpoint, read without running code from it; or ``weights.safetensors`` or ``best.safetensors`` of
        a run of ``mien train affect``, with its ``config.json`` beside it.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.
    vectors
        File of the word vectors that a released graph was trained with: the authors' ``emb.pkl``, or GloVe's text.
        None: a file of that name beside the checkpoint. No others will do: the graph's weights are made for them.
    size
        Side of the input, px. None: a run's own; 112 for BReG-NeXt, and for a DenseNet whose graph is not AffectNet's
        (Aff-Wild2); 227 else.
    template
        How a face is cut. None: "chip112", an upright tight face, which stands for AffectNet's boxes; "arcface112" for
        Aff-Wild2, whose crops are aligned by five points.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its tensors are not those of the network.
    WeightsUnavailable
        The network has a graph and there is no file of word vectors.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    own = file.suffix == ".safetensors" and file.with_name("config.json").is_file()
    if own:
        network, builder, arguments, side, cut = _of_run(file)
    else:
        network, builder, arguments, side, cut = _released(file, vectors)
    ready: nn.Module = cached(network) if isinstance(network, GraphNetwork) else network
    about = {
        "builder": builder, "arguments": arguments, "size": side if size is None else size,
        "template": cut if template is None else template, "run": own,
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, ready, metadata={"paper": "emotion_gcn", "source": file.name, "about": json.dumps(about)})
    return declaration(out, name=name)


def _released(file: Path, vectors: str | Path | None) -> tuple[nn.Module, str, dict[str, Any], int, str]:
    state = read_state(file, convert="mien.papers.emotion_gcn.checkpoint:_opened")
    shape = shape_of(state)
    made: nn.Module = getattr(networks, shape.builder)(**shape.arguments)
    wild = shape.builder == "emotion_gcn_bregnext"
    words: Tensor | None = None
    if shape.graph:
        beside = sorted({path for pattern in BESIDE for path in file.parent.glob(pattern)})
        if vectors is None and not beside:
            raise WeightsUnavailable(
                "the checkpoint has no word vectors, and the graph's weights are for those it was trained with",
                got=f"none of {', '.join(BESIDE)} beside {file}",
                hint="put the authors' emb.pkl, or GloVe's glove.6B.300d.txt, beside the checkpoint",
            )
        words = torch.from_numpy(
            word_vectors(beside[0] if vectors is None else vectors, nodes(shape.arguments["classes"]))
        )
    fill(made, convert_official(state, vectors=words), source=str(file))
    faces = True
    if shape.graph and shape.arguments["classes"] == 7:
        usual = adjacency(edges(affectnet_correlations(), classes=7))
        faces = bool(np.allclose(state["A"].double().numpy(), usual, atol=1e-3))
    side = 112 if wild or not faces else 227
    builder, arguments = shape.builder, dict(shape.arguments)
    if shape.graph:
        builder = "affect_reader"
        backbone = "bregnext50" if wild else "densenet121"
        arguments = {"backbone": backbone, **{k: v for k, v in arguments.items() if k in ("classes", *SIZES)}}
    return made, builder, arguments, side, "chip112" if faces else "arcface112"


def _of_run(file: Path) -> tuple[nn.Module, str, dict[str, Any], int, str]:
    try:
        config = json.loads(file.with_name("config.json").read_text(encoding="utf-8"))
        numbers: dict[str, Any] = {
            key: tuple(value) if isinstance(value := config[key], list) else value for key in RUN
        }
        numbers["classes"] = config["emotions"]
        head, backbone, side = config["head"], config["backbone"], int(config["size"])
        kind, data = config["kind"], config["data"]
    except (KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"config.json beside {file} is not that of a run of mien train affect", got=error,
            expected="the config.json that the run wrote",
        ) from error  # fmt: skip
    wild = kind == "affwild2" or (kind == "auto" and data is not None and kind_of(data) == "affwild2")
    made: nn.Module = affect_network(head, backbone, **numbers)
    fill(made, read_state(file), source=str(file))
    builder = {"graph": "affect_reader", "multi": "multi_task", "single": "single_task"}[head]
    arguments = {"backbone": backbone, **{key: numbers[key] for key in ("classes", *SIZES)}}
    return made, builder, arguments, side, "arcface112" if wild else "chip112"


def declaration(file: str | Path, *, name: str = "emotion_gcn") -> Weights:
    """What mien has to know of a file that `import_official` wrote: its hash, the network, what it wants to see.

    Raises
    ------
    CheckpointError
        The file cannot be read, or was not written by `import_official`.
    """

    def read(note: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any], str]:
        about = json.loads(note["about"])
        arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in about["arguments"].items()}
        return {**about, "size": int(about["size"]), "run": bool(about["run"])}, arguments, note["source"]

    place, (about, arguments, source) = noted(file, read)
    builder, size, own = about["builder"], about["size"], about["run"]
    with torch.device("meta"):
        plain: nn.Module = getattr(networks, builder)(**arguments)
    both = "" if builder == "single_task" else ", valence and arousal"
    return Weights(
        name=name,
        task="reading",
        **place,
        licence="that of your training data" if own else "none stated for the weights (code: GPL-3.0)",
        source=f"{source} of a run of mien train affect" if own else f"{source} of the authors, converted",
        build=f"mien.papers.emotion_gcn:{builder}",
        arguments=arguments,
        decode="mien.papers.emotion_gcn:decode",
        input=InputContract(
            size=size, mean=_of_pixels(MEAN), std=_of_pixels(STD), template=about["template"]
        ),
        paper="emotion_gcn",
        parameters=count_parameters(plain),
        macs=count_macs(plain, (1, 3, size, size)),
        macs_input=(1, 3, size, size),
        notes=f"Reads {arguments['classes']} expressions{both}; their probabilities are not calibrated.",
    )  # fmt: skip


def _of_pixels(values: tuple[float, float, float]) -> tuple[float, float, float]:
    first, second, third = (255 * value for value in values)
    return first, second, third


def decode(raw: NDArray[np.float32], temperatures: Mapping[str, float]) -> dict[str, NDArray[np.float32]]:
    """Columns of `mien.faces.Faces` from what a network gives.

    Parameters
    ----------
    raw
        (n, k): logits of seven or eight classes, and valence and arousal where k is 9 or 10.
    temperatures
        ``expression``: what the logits are divided by.

    Returns
    -------
    dict
        ``expressions`` (n, 8), a class that the network lacks having probability 0; and ``affect`` (n, 2), clipped to
        -1 to 1, where the network gives it.
    """
    numbers = np.asarray(raw, np.float64)
    classes = numbers.shape[1] - (2 if numbers.shape[1] > len(EMOTIONS) else 0)
    logits = numbers[:, :classes] / temperatures.get("expression", 1.0)
    shares = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
    shares /= shares.sum(1, keepdims=True)
    found = np.zeros((len(numbers), len(EXPRESSIONS)), np.float32)
    found[:, [EXPRESSIONS.index(name) for name in EMOTIONS[:classes]]] = shares
    columns = {"expressions": found}
    if numbers.shape[1] > classes:
        columns["affect"] = np.clip(numbers[:, classes:], -1, 1).astype(np.float32)
    return columns
