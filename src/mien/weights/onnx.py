"""Networks as ONNX files, and run by onnxruntime (extra ``onnx``): the same numbers without torch's engine.

An exported file is checked against the network it came from before it gets its name: `Exported.difference` says by how
much the two differ on random pictures, and a difference beyond `TOLERANCE` is an error. The file carries its licence
and its input contract as metadata, and nothing of the machine that wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import CheckpointError, DeviceUnavailable, MissingExtra, OptionError, ShapeError, WeightsError
from mien.weights import store
from mien.weights.declare import InputContract, Weights, info

if TYPE_CHECKING:
    import torch

OPSET = 18
"""ONNX operator set that is written unless another is asked for; onnxruntime 1.14 and everything newer reads it."""
OPSETS = range(18, 24)

TOLERANCE = 1e-4
"""Largest difference to the network, in units of its largest output (of 1, where that is smaller)."""

INPUT, OUTPUT = "images", "outputs"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An ONNX file and how well it agrees with the network.

    Parameters
    ----------
    path
        The file.
    weights, sha256
        Name and hash of the weights in it.
    opset
        ONNX operator set.
    input, output
        Names and shapes; letters are free.
    difference
        Largest absolute difference of an output to the network's, over all inputs of the check.
    largest
        Largest absolute output of the network in the check.
    size
        Of the file, bytes.
    """

    path: Path
    weights: str
    sha256: str
    opset: int
    input: str
    output: str
    difference: float
    largest: float
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "path": str(self.path)}


def export_onnx(name: str | Weights, out: str | os.PathLike[str], *, opset: int = OPSET) -> Exported:
    """Writes the network of those weights as an ONNX file, and checks it against the network.

    The batch is free; so are height and width (multiples of the contract's `multiple_of`) where the contract has no
    fixed size. Input: ``images`` (B, 3, H, W) float32, as the contract in the metadata says. Output: ``outputs``.

    Parameters
    ----------
    name
        Name or declaration of the weights.
    out
        The file; an existing one is replaced once the new one has passed the check.
    opset
        ONNX operator set, 18 to 23.

    Raises
    ------
    MissingExtra
        onnx, onnxscript or onnxruntime is not installed.
    WeightsError
        The weights cannot be had; the file cannot be written; or it computes something else than the network.
    OptionError
        No such operator set, or `out` does not end in ``.onnx``.
    """
    import torch

    from mien.weights.load import load

    onnx = _package("onnx")
    _package("onnxscript")
    _package("onnxruntime")
    weights, target = info(name), Path(out)
    if opset not in OPSETS:
        raise OptionError("that ONNX operator set is not written", got=opset, expected=f"{OPSETS[0]} to {OPSETS[-1]}")
    if target.suffix.lower() != ".onnx":
        raise OptionError("an ONNX file is named so", got=target, expected="a name that ends in .onnx")
    if target.is_dir():
        raise OptionError("a folder stands where the file should be written", got=target)
    network = load(weights, device="cpu")
    if getattr(network, "runtime", "torch") == "onnx":
        raise OptionError(
            "these weights were published as an ONNX file, and are exported already",
            got=weights.name,
            expected="weights of a torch network",
            hint=weights.source,
        )
    with torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            network,
            (_pictures(weights.input, 2, 2),),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(_free(weights.input),),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _describe(model, weights)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    with store.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="mien-") as folder:
            trial = Path(folder) / "trial.onnx"
            trial.write_bytes(data)
            session = OnnxNetwork(trial, size=weights.input.size)
            difference, largest = _compare(network, session, weights)
        store.write_whole(target, data)
    return Exported(
        path=target,
        weights=weights.name,
        sha256=weights.sha256,
        opset=opset,
        input=f"{INPUT} {_shape(model.graph.input[0])}",
        output=f"{OUTPUT} {_shape(model.graph.output[0])}",
        difference=difference,
        largest=largest,
        size=len(data),
    )


class OnnxNetwork:
    """An ONNX file, run by onnxruntime: (B, 3, H, W) float tensors in, float tensors of the same device out.

    It computes on as many threads as torch was set to when it was made (``torch.set_num_threads``). Tensors of a GPU
    pass through the memory of the host.

    Parameters
    ----------
    path
        The file.
    device
        "cpu" or "cuda"; see `mien.weights.device`.
    size
        Side of the input in pixels, where it is fixed.
    """

    def __init__(self, path: Path, *, device: str | torch.device = "cpu", size: int | None = None) -> None:
        import torch

        runtime = _package("onnxruntime")
        self.path, self.size, self.device = path, size, torch.device(device)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; they are raised besides
        # Plans of memory are kept for every shape that was ever seen: with free sizes they would grow without end.
        options.enable_mem_pattern = size is not None
        provider: Any = _PROVIDERS[self.device.type]
        if self.device.type == "cuda":
            current = self.device == torch.device("cuda")  # without a number
            provider = (provider, {"device_id": torch.cuda.current_device() if current else self.device.index})
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # onnxruntime's own classes are not to be imported in a stable way
            raise CheckpointError(f"onnxruntime cannot read {path}", got=error, hint="delete the file") from error
        # onnxruntime goes on without a provider that fails to start, and only warns.
        if self.session.get_providers()[0] != _PROVIDERS[self.device.type]:
            raise DeviceUnavailable(
                f"onnxruntime cannot start on {self.device}",
                got=self.session.get_providers(),
                hint="its CUDA libraries may be missing; use device='cpu' or backend='torch'",
            )

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Outputs (B, …) for `images` (B, 3, H, W); ShapeError for anything else."""
        import torch

        side = self.size
        if images.ndim != 4 or images.shape[1] != 3 or (side is not None and images.shape[2:] != (side, side)):
            expected = "(B, 3, H, W)" if side is None else f"(B, 3, {side}, {side})"
            raise ShapeError("images of an ONNX network", got=tuple(images.shape), expected=expected)
        array = np.ascontiguousarray(images.detach().to("cpu", torch.float32).numpy())
        return torch.from_numpy(self.session.run([OUTPUT], {INPUT: array})[0]).to(images.device)

    def __repr__(self) -> str:
        return f"OnnxNetwork({self.path.name!r}, device={str(self.device)!r})"


def load_onnx(name: str | Weights, *, device: str | torch.device = "cpu") -> OnnxNetwork:
    """The network of those weights by onnxruntime, exported into ``MIEN_HOME/onnx`` if it is not there yet.

    The weights are verified as ever. An exported file that is not the one that was written is exported anew.
    """
    import torch

    from mien._version import __version__

    _package("onnxruntime")
    weights = info(name)
    store.path(weights)
    # Whatever the file depends on is in its name: the weights, the code that builds the network, the exporter.
    made_by = [weights.build, dict(weights.arguments), weights.convert, asdict(weights.input), __version__]
    key = hashlib.sha256(json.dumps([*made_by, torch.__version__], default=str).encode()).hexdigest()[:8]
    target = store.folder("onnx") / f"{weights.name}-{weights.sha256[:12]}-{key}.onnx"
    note = target.with_suffix(".sha256")
    with store.writing(target), store.locked(target):
        if not _as_noted(target, note):
            note.unlink(missing_ok=True)
            export_onnx(weights, target)
            store.write_whole(note, _digest(target).encode())
    return OnnxNetwork(target, device=device, size=weights.input.size)


def kinds() -> tuple[str, ...]:
    """Kinds of devices that the installed onnxruntime can run on: "cpu", and perhaps "cuda"."""
    there = _package("onnxruntime").get_available_providers()
    return tuple(kind for kind, provider in _PROVIDERS.items() if provider in there)


def _as_noted(target: Path, note: Path) -> bool:
    try:
        return note.read_text("ascii") == _digest(target)
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@cache
def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(name, extra="onnx") from error


def _free(contract: InputContract) -> dict[int, Any]:
    """The free axes of the input, for the exporter."""
    from torch.export import Dim

    if contract.size is not None:
        return {0: Dim("batch")}
    step = contract.multiple_of
    rows, columns = Dim("rows"), Dim("columns")
    return {0: Dim("batch"), 2: step * rows if step > 1 else rows, 3: step * columns if step > 1 else columns}


def _pictures(contract: InputContract, batch: int, steps: int) -> torch.Tensor:
    """Random pictures as the contract wants them; where sizes are free, of different height and width."""
    step = -(-16 // contract.multiple_of) * contract.multiple_of
    height, width = (contract.size,) * 2 if contract.size else (step * steps, step * (steps + 1))
    pixels = np.random.default_rng(batch).integers(0, 256, (batch, height, width, 3), np.uint8)
    return contract.tensor(pixels)


def _compare(network: Any, session: OnnxNetwork, weights: Weights) -> tuple[float, float]:
    """Largest difference and largest output on random pictures of several batches and sizes."""
    import torch

    difference, largest = 0.0, 0.0
    for batch, steps in ((1, 3), (3, 2)):
        images = _pictures(weights.input, batch, steps)
        with torch.inference_mode():
            want = network(images)
        got = session(images)
        if got.shape != want.shape:
            raise _differs(weights, tuple(got.shape), tuple(want.shape))
        gap, scale = float((got - want).abs().max()), float(want.abs().max())
        if not gap <= TOLERANCE * max(1.0, scale):  # so written, NaN is too much
            raise _differs(
                weights, f"a difference of {gap:.2g}", f"at most {TOLERANCE:g} of the largest output, {scale:.3g}"
            )
        difference, largest = max(difference, gap), max(largest, scale)
    return difference, largest


def _differs(weights: Weights, got: object, expected: object) -> WeightsError:
    return WeightsError(
        f"the ONNX file of {weights.name} does not compute what the network computes; it was not written",
        got=got,
        expected=expected,
        hint="update onnx, onnxscript and onnxruntime; report it if that does not help",
    )


def _describe(model: Any, weights: Weights) -> None:
    """Puts the facts into the file, and takes out the exporter's notes, which hold paths of this machine."""
    from mien._version import __version__

    for graph in (model.graph, *model.functions):
        for part in (graph, *graph.node, *graph.value_info):
            del part.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    model.producer_name, model.producer_version = "mien", __version__
    model.doc_string = f"{weights.task} by {weights.name} ({weights.licence}); {weights.source}"
    del model.metadata_props[:]
    facts = {
        "name": weights.name,
        "sha256": weights.sha256,
        "licence": weights.licence,
        "input": json.dumps(asdict(weights.input)),
        "input_text": weights.input.text,
    }
    if weights.embedding is not None:
        facts["embedding"] = json.dumps(asdict(weights.embedding))
    for key, value in facts.items():
        model.metadata_props.add(key=f"mien.{key}", value=value)


def _shape(value: Any) -> str:
    axes = value.type.tensor_type.shape.dim
    return "(" + ", ".join(axis.dim_param or str(axis.dim_value) for axis in axes) + ")"
