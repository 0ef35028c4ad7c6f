"""A published ONNX file as an ``nn.Module``: the graph's bytes are its state, and onnxruntime runs them.

Some networks are published as ONNX files only. As a module with one tensor, the file itself, such a network is kept in
safetensors with its hash, loaded and called like any other; it cannot be trained. The graph is data: no code of its
maker runs, operators outside of ONNX are refused by onnxruntime, and files beside it are never read.

`mien.weights.load` gives the same module for both backends, since onnxruntime runs it in any case.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mien.errors import CheckpointError, DeviceUnavailable, MissingExtra, ShapeError

_PROVIDERS = {"cpu": "CPUExecutionProvider", "mps": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Signature(NamedTuple):
    """Names and shapes of a graph's inputs and outputs, in order; free axes are None."""

    inputs: dict[str, tuple[int | None, ...]]
    outputs: dict[str, tuple[int | None, ...]]


class OnnxGraph(nn.Module):
    """A graph with one input and one output that has a row for each row: (B, …) -> (B, …).

    It computes on as many threads as torch was set to at its first call. Tensors of a GPU pass through the memory of
    the host.

    Parameters
    ----------
    size
        Bytes of the ONNX file.

    Attributes
    ----------
    graph
        (size,) uint8, the file.
    """

    runtime: ClassVar[str] = "onnx"
    graph: Tensor

    def __init__(self, *, size: int) -> None:
        super().__init__()
        self.register_buffer("graph", torch.zeros(size, dtype=torch.uint8))
        self._sessions: dict[str, Any] = {}

    @classmethod
    def of(cls, data: bytes) -> OnnxGraph:
        """The graph of a file's content."""
        made = cls(size=len(data))
        made.graph.copy_(torch.from_numpy(np.frombuffer(data, np.uint8).copy()))
        return made

    def signature(self) -> Signature:
        """What goes in and comes out.

        Raises
        ------
        CheckpointError
            onnxruntime cannot read the graph.
        MissingExtra
            onnxruntime is not installed.
        """
        session = self._session(torch.device("cpu"))
        inputs, outputs = (
            {one.name: tuple(axis if isinstance(axis, int) else None for axis in one.shape) for one in ends}
            for ends in (session.get_inputs(), session.get_outputs())
        )
        return Signature(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """float (B, …) -> float (B, …) on the same device. Where the graph's batch is fixed, rows go in as many turns.

        Raises
        ------
        ShapeError
            `x` is not what the graph takes.
        DeviceUnavailable
            `x` is on a device on which this onnxruntime cannot run.
        """
        session = self._session(x.device)
        (given,), (made,) = session.get_inputs(), session.get_outputs()
        shape = [axis if isinstance(axis, int) else None for axis in given.shape]
        wrong = len(shape) != x.ndim or any(
            want is not None and want != got for want, got in zip(shape[1:], x.shape[1:], strict=True)
        )
        if wrong:
            raise ShapeError("input of an ONNX graph", got=tuple(x.shape), expected=given.shape)
        rows = x.detach().to("cpu", torch.float32).contiguous()
        turn = shape[0] or max(1, len(rows))
        parts = []
        for start in range(0, max(1, len(rows)), turn):
            part = rows[start : start + turn]
            # The last turn of a fixed batch is filled up, and what was filled in is dropped.
            filled = torch.cat([part, part.new_zeros(turn - len(part), *part.shape[1:])])
            out = session.run([made.name], {given.name: filled.numpy()})[0]
            parts.append(torch.from_numpy(out)[: len(part)])
        return torch.cat(parts).to(x.device)

    def _session(self, device: torch.device) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime", extra="onnx") from error
        key = str(device)
        if key not in self._sessions:
            provider = _PROVIDERS[device.type]
            if provider not in onnxruntime.get_available_providers():
                raise DeviceUnavailable(
                    f"onnxruntime cannot run on {device} here",
                    got=onnxruntime.get_available_providers(),
                    expected=provider,
                    hint="use device='cpu', or install onnxruntime-gpu",
                )
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3  # errors; they are raised besides
            at: Any = (provider, {"device_id": device.index or 0}) if device.type == "cuda" else provider
            try:
                data = self.graph.cpu().numpy().tobytes()
                self._sessions[key] = onnxruntime.InferenceSession(data, options, providers=[at])
            except Exception as error:  # onnxruntime's own classes are not to be imported in a stable way
                raise CheckpointError(
                    "onnxruntime cannot read the ONNX graph", got=error, expected="one file that holds all of it"
                ) from error
        return self._sessions[key]

    def _load_from_state_dict(self, *args: Any, **more: Any) -> None:
        super()._load_from_state_dict(*args, **more)
        self._sessions.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sessions": {}}  # a session can be neither copied nor pickled

    def extra_repr(self) -> str:
        return f"size={len(self.graph)}"
