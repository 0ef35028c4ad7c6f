"""Any frozen network as a source of features: mien's own weights, timm's, torchvision's, at any layer by name.

    backbone("mien-embedder")                                     weights that mien knows, imported ones too
    backbone("timm:resnet50", weights="resnet50.safetensors")     extra `backbones`
    backbone("torchvision:alexnet", pretrained=True)              an explicit download by torchvision itself
    backbone("mien.nn.embedder:embedder_small?dim=64", weights="runs/x/weights.safetensors")

Nothing is downloaded unless `pretrained` asks for it. Layers are the network's modules by their names, in the order in
which they run; a module that runs again (one ReLU for a whole block) appears as ``relu_1``, ``relu_2``. What a layer
gives is caught by hooks, so that no graph is traced and control flow does not matter, and a pass ends at the last layer
that was asked for.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.errors import CheckpointError, DownloadError, MienError, MissingExtra, OfflineError, OptionError, ShapeError
from mien.papers.cnn_off_the_shelf.network import MEAN, STD, OverFeat
from mien.papers.cnn_off_the_shelf.views import ORIGINAL, View, represent
from mien.weights import InputContract
from mien.weights.load import device as find_device
from mien.weights.load import fill, read_state
from mien.weights.store import is_offline

POOLS = ("mean", "max", "grid", "flatten", "first")
"""What becomes of a map or of tokens: mean or largest value over all places; means over 3 x 3 fields; everything; or
the first token (of transformers with a class token)."""

GRID = 3
OUTPUT, INPUT = "output", ":in"
"""The network's own output; and, behind a layer's name, what goes into it."""

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
CODE = ("mien.papers.", "mien.nn.")
"""Where a builder may lie: names of networks stand in files of probes, which must not choose what runs."""

Array = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Layer(NamedTuple):
    """A place in a network: name, kind of module, and the shape of what it gives for one picture."""

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network and what it wants to see.

    Parameters
    ----------
    name
        As it was asked for.
    network
        In eval mode, without gradients.
    input
        Size in pixels, normalisation and colour order.
    layer
        The default layer's name.
    rectify
        Whether features of the default layer are cut off at 0, as after a ReLU.
    device
        Where the network lies.
    """

    name: str
    network: nn.Module
    input: InputContract
    layer: str
    rectify: bool
    device: torch.device

    @property
    def size(self) -> int:
        """Side of the input, pixels."""
        assert self.input.size is not None
        return self.input.size

    def fingerprint(self) -> str:
        """SHA-256 of all tensors by name: two backbones with the same one give the same features."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            if not name.endswith("num_batches_tracked"):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


# ------------------------------------------------------------------------------------------- finding a network


def backbone(
    name: str,
    *,
    weights: str | None = None,
    pretrained: bool = False,
    random: bool = False,
    size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Backbone:
    """The network of that name, frozen.

    Parameters
    ----------
    name
        Name of mien's weights; ``timm:MODEL`` (extra ``backbones``); ``torchvision:MODEL``; or ``module:builder`` in
        mien.papers or mien.nn. Arguments of a builder follow a question mark: ``timm:resnet18?in_chans=3``.
    weights
        File of the network's own state dict, `.safetensors` or a checkpoint of plain tensors; for all but mien's
        weights, which bring theirs.
    pretrained
        Let timm or torchvision fetch its weights, and keep them where it does. mien does not check their hash.
    random
        Take random numbers instead: a baseline.
    size
        Side of the input, pixels. Default: what the network was made for, 224 where it does not say.
    seed
        Of random numbers.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises
    ------
    OptionError
        There is no such network; or none or several of `weights`, `pretrained` and `random` were given where one is
        needed.
    UnknownWeights
        No weights of that name are declared.
    CheckpointError
        The file is not the network's.
    MissingExtra
        timm is not installed.
    OfflineError, DownloadError
        `pretrained`, and the weights cannot be fetched.
    """
    kind, arguments = _parsed(name)
    library, _, model = kind.partition(":")
    place = find_device(device)
    if not model:
        network, contract = _of_mien(name, weights, pretrained, random, seed, str(place))
    else:
        chosen = [option for option, on in (("weights", weights), ("pretrained", pretrained), ("random", random)) if on]
        if len(chosen) != 1:
            raise OptionError(
                f"say where the numbers of {name} come from", got=", ".join(chosen) or "nothing",
                expected="one of weights=FILE, pretrained, random", hint="mien downloads nothing by itself",
            )  # fmt: skip
        if pretrained and is_offline():
            raise OfflineError(f"the weights of {name} would have to be downloaded")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network, contract = _built(library, model, arguments, pretrained)
        if weights is not None:
            fill(network, _state(weights), source=weights)
    wanted = size or contract.size or 224
    if wanted % contract.multiple_of:
        raise OptionError(
            "the input's side is not one of this network", got=wanted, expected=f"steps of {contract.multiple_of}"
        )
    contract = InputContract(
        size=wanted, mean=contract.mean, std=contract.std, colour=contract.colour, template=contract.template,
        margin=contract.margin,
    )  # fmt: skip
    network.eval().requires_grad_(False).to(place)
    classifier = library in ("timm", "torchvision")
    return Backbone(name, network, contract, *_default_layer(network, classifier, wanted, place), place)


def of_module(network: nn.Module, contract: InputContract, *, name: str = "module") -> Backbone:
    """A network that is in memory already, as a backbone; it is set to eval mode. `contract` needs a size."""
    if contract.size is None:
        raise OptionError("the input contract of a backbone needs a size", got=None, expected="pixels")
    place = next((p.device for p in network.parameters()), torch.device("cpu"))
    network.eval()
    return Backbone(name, network, contract, *_default_layer(network, False, contract.size, place), place)


def _parsed(name: str) -> tuple[str, dict[str, Any]]:
    kind, _, text = name.partition("?")
    arguments: dict[str, Any] = {}
    for pair in filter(None, text.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise OptionError(
                "arguments of a network are given as key=value", got=pair, hint="such as ?width=0.5&dim=64"
            )
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value
    return kind, arguments


def _of_mien(
    name: str, file: str | None, pretrained: bool, random: bool, seed: int, place: str
) -> tuple[nn.Module, InputContract]:
    from mien import weights as declared

    if file is not None or pretrained:
        raise OptionError(
            f"the weights {name} bring their own numbers", got="weights=FILE" if file is not None else "pretrained",
            hint="name a builder, such as mien.nn.embedder:embedder_base, to fill it from a file",
        )  # fmt: skip
    found = declared.info(name)
    if not random:
        return declared.load(name, device=place, backend="torch", fold=False), found.input
    from mien.weights.load import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(found), found.input


def _built(library: str, model: str, arguments: dict[str, Any], pretrained: bool) -> tuple[nn.Module, InputContract]:
    makers: Mapping[str, Callable[[str, dict[str, Any], bool], tuple[nn.Module, InputContract]]] = {
        "timm": _of_timm,
        "torchvision": _of_torchvision,
    }
    try:
        if library in makers:
            return makers[library](model, arguments, pretrained)
        return _of_builder(library, model, arguments, pretrained)
    except MienError:
        raise
    except TypeError as error:
        raise OptionError(f"{library}:{model} does not take these arguments", got=f"{arguments}: {error}") from error
    except Exception as error:
        if not pretrained:
            raise
        raise DownloadError(f"the weights of {library}:{model} could not be fetched", got=error) from error


def _of_timm(model: str, arguments: dict[str, Any], pretrained: bool) -> tuple[nn.Module, InputContract]:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise MissingExtra("timm", extra="backbones") from error
    if not timm.is_model(model):
        raise OptionError.unknown("timm has no such network", model, timm.list_models())
    if pretrained and not timm.is_model_pretrained(model):
        raise OptionError("timm has no weights for this network", got=model, hint="give weights=FILE")
    network: nn.Module = timm.create_model(model, pretrained=pretrained, **arguments)
    data = timm.data.resolve_model_data_config(network)
    mean, std = (tuple(255.0 * v for v in data[key]) for key in ("mean", "std"))
    return network, InputContract(size=int(data["input_size"][-1]), mean=_three(mean), std=_three(std))


def _of_torchvision(model: str, arguments: dict[str, Any], pretrained: bool) -> tuple[nn.Module, InputContract]:
    from torchvision import models

    known = models.list_models(module=models)
    if model not in known:
        raise OptionError.unknown("torchvision has no such network", model, known)
    default = models.get_model_weights(model).DEFAULT
    # transform_input and the like come with the weights' metadata; without them some networks are another.
    extra = {"init_weights": True, "aux_logits": True} if model in ("googlenet", "inception_v3") else {}
    network = models.get_model(model, weights=default if pretrained else None, **{**extra, **arguments})
    transforms = default.transforms()
    size = int(transforms.crop_size[0])
    mean, std = (tuple(255.0 * v for v in part) for part in (transforms.mean, transforms.std))
    return network, InputContract(size=size, mean=_three(mean), std=_three(std))


def _of_builder(
    module: str, function: str, arguments: dict[str, Any], pretrained: bool
) -> tuple[nn.Module, InputContract]:
    if pretrained:
        raise OptionError(
            "only timm and torchvision have weights to fetch", got=f"{module}:{function}", expected="weights=FILE"
        )
    if not module.startswith(CODE):
        raise OptionError(
            "there is no such library of networks",
            got=module,
            expected=("timm", "torchvision", *(f"{c}…" for c in CODE)),
        )
    try:
        build = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise OptionError("there is no such builder", got=f"{module}:{function}", expected="module:function") from error
    network = build(**arguments)
    if not isinstance(network, nn.Module):
        raise OptionError(
            "that is no builder of a network", got=f"{module}:{function}", expected="a function that gives an nn.Module"
        )
    if isinstance(network, OverFeat):
        return network, InputContract(size=network.size, mean=(MEAN,) * 3, std=(STD,) * 3)
    size = getattr(network, "size", None)
    return network, InputContract(size=size if isinstance(size, int) else 112)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = values
    return float(first), float(second), float(third)


def _state(file: str) -> dict[str, Tensor]:
    from pathlib import Path

    path = Path(file).expanduser()
    if not path.is_file():
        raise CheckpointError("there is no such file of weights", got=path)
    return read_state(path)


def _default_layer(network: nn.Module, classifier: bool, size: int, place: torch.device) -> tuple[str, bool]:
    """The layer that a backbone gives if nobody asks: `fc1` after its ReLU where there is one, as the paper has it; of
    other classifiers what goes into the last linear layer; of embedders the output."""
    first = aliases(network).get("fc1")
    if first is not None:
        return first, True
    if classifier:
        linear = [layer for layer in layers(network, size, device=place) if layer.kind == "Linear"]
        last = dict(network.named_modules())[linear[-1].name] if linear else None
        # A linear layer that is the very end tells classes; one further inside belongs to a block.
        if last is not None and linear and linear[-1].shape == _shape_of(network, size, place):
            return f"{linear[-1].name}{INPUT}", False
    return OUTPUT, False


def _shape_of(network: nn.Module, size: int, place: torch.device) -> tuple[int, ...]:
    with torch.inference_mode():
        out = _tensor(network(torch.zeros(1, 3, size, size, device=place)))
    return () if out is None else tuple(out.shape[1:])


def aliases(network: nn.Module) -> dict[str, str]:
    """What "fc1" and "fc2", the first and the second fully connected layer, are called in `network`.

    Known of OverFeat, and of networks whose `classifier` holds at least three linear layers (AlexNet, VGG).
    """
    if isinstance(network, OverFeat):
        return {"fc1": "fc1", "fc2": "fc2"}
    head = getattr(network, "classifier", None)
    linear = (
        [n for n, m in head.named_children() if isinstance(m, nn.Linear)] if isinstance(head, nn.Sequential) else []
    )
    if len(linear) < 3:
        return {}
    return {"fc1": f"classifier.{linear[0]}", "fc2": f"classifier.{linear[1]}"}


# ------------------------------------------------------------------------------------------- layers


def layers(
    network: nn.Module | Backbone, size: int | None = None, *, device: torch.device | None = None
) -> list[Layer]:
    """Every layer of a network in the order in which they end, the whole network ("output") last.

    Parameters
    ----------
    network
        A backbone; or any network that takes (B, 3, size, size).
    size
        Side of the input, pixels; of a backbone its own.
    device
        Where the network lies; of a backbone its own.

    Raises
    ------
    ShapeError
        The network does not take such an input.
    """
    if isinstance(network, Backbone):
        return layers(network.network, network.size, device=network.device)
    if size is None:
        raise OptionError("layers of a network are listed for a size of its input", got=None, expected="pixels")
    found: list[Layer] = []
    seen: dict[str, int] = {}

    def note(name: str, module: nn.Module, out: object) -> None:
        count = seen[name] = seen.get(name, -1) + 1
        tensor = _tensor(out)
        if tensor is not None:
            called = OUTPUT if not name else f"{name}_{count}" if count else name
            found.append(Layer(called, type(module).__name__, tuple(tensor.shape[1:])))

    hooks = [m.register_forward_hook(lambda m, _, out, n=n: note(n, m, out)) for n, m in network.named_modules()]
    was = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, size, size, device=device))
    except (RuntimeError, AssertionError) as error:
        raise ShapeError(
            f"{type(network).__name__} does not take pictures of that size", got=f"{size} px: {error}"
        ) from error
    finally:
        network.train(was)
        for hook in hooks:
            hook.remove()
    return found


def _tensor(out: object) -> Tensor | None:
    """The tensor of an output: itself, or the first one in it; None for what holds none with rows."""
    if isinstance(out, Mapping):
        out = tuple(out.values())
    if isinstance(out, tuple | list):
        return next((one for one in map(_tensor, out) if one is not None), None)
    return out if isinstance(out, Tensor) and out.ndim >= 2 and out.is_floating_point() else None


def resolved(source: Backbone, layer: str | None) -> str:
    """The exact name of a layer: the default for None, what an alias stands for, or the name itself.

    Raises
    ------
    OptionError
        There is no such layer; the message names the nearest.
    """
    name = source.layer if layer is None else aliases(source.network).get(layer, layer)
    bare = name.removesuffix(INPUT)
    known = [one.name for one in layers(source)]
    if bare not in known:
        raise OptionError.unknown("the network has no such layer", name, known)
    return name


class _Enough(Exception):
    """Every layer that was asked for has been caught; the rest of the pass is not needed."""


@contextmanager
def _caught(
    network: nn.Module, names: Sequence[str], reduce: Callable[[Tensor], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Within the block, a pass of `network` fills the dictionary with reduced features of `names`, and then stops."""
    modules = dict(network.named_modules())
    wanted: dict[tuple[str, bool], dict[int, str]] = {}
    for name in names:
        bare, inside = name.removesuffix(INPUT), name.endswith(INPUT)
        stem, _, number = bare.rpartition("_")
        if bare == OUTPUT and OUTPUT not in modules:
            module, call = "", 0
        elif bare in modules:
            module, call = bare, 0
        else:
            module, call = stem, int(number)
        wanted.setdefault((module, inside), {})[call] = name
    values: dict[str, Tensor] = {}
    calls: dict[tuple[str, bool], int] = {}

    def take(key: tuple[str, bool], out: object) -> None:
        call = calls[key] = calls.get(key, -1) + 1
        name = wanted[key].get(call)
        tensor = _tensor(out)
        if name is None or tensor is None:
            return
        # Reduced now: the next layer may work in place.
        values[name] = reduce(tensor)
        if len(values) == len(names):
            raise _Enough

    hooks = []
    for key in wanted:
        module = modules[key[0]]
        if key[1]:
            hooks.append(module.register_forward_pre_hook(lambda _, given, key=key: take(key, given)))
        else:
            hooks.append(module.register_forward_hook(lambda _, __, out, key=key: take(key, out)))
    try:
        yield values
    finally:
        for hook in hooks:
            hook.remove()


def pooled(x: Tensor, pool: str = "mean") -> Tensor:
    """(B, …) -> (B, d): maps (B, C, H, W) and tokens (B, N, C) by `POOLS`; what has two axes already is copied.

    A square map whose last axis differs from the one before is taken for (B, H, W, C), as Swin has them.
    """
    if x.ndim == 4 and x.shape[1] == x.shape[2] != x.shape[3]:
        x = x.permute(0, 3, 1, 2)
    if pool not in POOLS:
        raise OptionError.unknown("unknown pooling", pool, POOLS)
    if x.ndim == 2 or pool == "flatten" or x.ndim > 4:
        return x.flatten(1).clone()
    if pool == "first":
        return (x[:, 0] if x.ndim == 3 else x[..., 0, 0]).clone()
    if pool == "grid" and x.ndim == 4:
        return F.adaptive_avg_pool2d(x, GRID).flatten(1).clone()
    places = (1,) if x.ndim == 3 else (2, 3)
    return x.amax(places) if pool == "max" else x.mean(places)


def features(
    source: Backbone, images: Tensor, names: Sequence[str], *, pool: str = "mean", rectify: bool = False
) -> dict[str, Tensor]:
    """Features (B, d) of several layers in one pass, neither normalised nor squared.

    Parameters
    ----------
    source
        The network.
    images
        (B, 3, S, S), normalised as the network wants them.
    names
        Exact names of layers (`layers`, `resolved`), or these with ``:in`` behind.
    pool
        See `POOLS`.
    rectify
        Cut off at 0 before pooling: what the ReLU after a layer gives.
    """
    exact = list(dict.fromkeys(names))

    def reduce(tensor: Tensor) -> Tensor:
        return pooled(tensor.relu() if rectify else tensor, pool).float()

    with torch.inference_mode(), _caught(source.network, exact, reduce) as values, suppress(_Enough):
        source.network(images)
    lacking = [name for name in exact if name not in values]
    if lacking:
        raise OptionError("a pass did not reach these layers", got=lacking, hint="list the layers at this input size")
    return values


def normalised(source: Backbone, pixels: Tensor) -> Tensor:
    """RGB values of 0 … 255, (B, 3, S, S) float, as the network wants them."""
    pixels = pixels.flip(1) if source.input.colour == "BGR" else pixels
    mean, std = (pixels.new_tensor(part)[:, None, None] for part in (source.input.mean, source.input.std))
    return (pixels - mean) / std


def described(
    source: Backbone,
    pictures: Array,
    names: Sequence[str],
    *,
    views: Sequence[View] = (ORIGINAL,),
    pool: str = "mean",
    rectify: bool = False,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Floats]:
    """Features (n, views, d) of pictures at several layers, neither normalised nor squared.

    Parameters
    ----------
    source
        The network.
    pictures
        (n, H, W, 3) uint8 RGB; squashed to the network's square.
    names
        Exact names of layers.
    views
        The representations of each picture.
    pool, rectify
        See `features`.
    batch
        Representations that go through the network together, at least one picture's.
    progress
        Called as ``progress(done, total)`` in pictures.
    """
    step = max(1, batch // len(views))
    parts: dict[str, list[Floats]] = {name: [] for name in names}
    for start in range(0, len(pictures), step):
        pixels = torch.from_numpy(np.ascontiguousarray(pictures[start : start + step])).to(source.device)
        seen = represent(pixels.permute(0, 3, 1, 2).float(), views, source.size)
        flat = normalised(source, seen.flatten(0, 1))
        for name, value in features(source, flat, names, pool=pool, rectify=rectify).items():
            parts[name].append(value.reshape(len(views), len(pixels), -1).transpose(0, 1).cpu().numpy())
        if progress is not None:
            progress(min(start + step, len(pictures)), len(pictures))
    return {name: cast(Floats, np.concatenate(found)) for name, found in parts.items()}
