"""A published ONNX file as a module: kept in its state, called in batches, copied, refused where it is broken."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from mien.errors import CheckpointError, ShapeError
from mien.nn.onnx_graph import OnnxGraph

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def graph(batch: int | str = 1, side: int = 8, dim: int = 4) -> bytes:
    """(batch, 3, side, side) -> (batch, dim): (x - 127.5) / 128, the mean over the picture, a matrix."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(np.float32(127.5), "middle"),
        numpy_helper.from_array(np.float32(1 / 128), "factor"),
        numpy_helper.from_array(rng.normal(size=(3, dim)).astype(np.float32), "matrix"),
    ]
    nodes = [
        helper.make_node("Sub", ["data", "middle"], ["a"]),
        helper.make_node("Mul", ["a", "factor"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "matrix"], ["fc1"]),
    ]
    made = helper.make_graph(
        nodes, "made up",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [batch, dim])], constants,
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def expected(x: torch.Tensor, dim: int = 4) -> torch.Tensor:
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=(3, dim)).astype(np.float32))
    return ((x - 127.5) / 128).mean((2, 3)) @ matrix


@pytest.mark.parametrize("batch", [1, 2, "n"])
@pytest.mark.parametrize("rows", [1, 3, 4])
def test_a_fixed_batch_is_no_limit(batch: Any, rows: int) -> None:
    x = 255 * torch.rand(rows, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(OnnxGraph.of(graph(batch))(x), expected(x), rtol=1e-4, atol=1e-5)


def test_the_file_is_the_state() -> None:
    data = graph()
    first = OnnxGraph.of(data)
    second = OnnxGraph(size=len(data))
    with pytest.raises(CheckpointError, match="cannot read"):
        second(torch.zeros(1, 3, 8, 8))
    second.load_state_dict(first.state_dict())
    x = 255 * torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(second(x), expected(x), rtol=1e-4, atol=1e-5)
    second.load_state_dict({"graph": OnnxGraph.of(graph()).graph})
    for other in (copy.deepcopy(second), pickle.loads(pickle.dumps(second))):
        torch.testing.assert_close(other(x), expected(x), rtol=1e-4, atol=1e-5)
    assert first.signature().inputs == {"data": (1, 3, 8, 8)}
    assert OnnxGraph.of(graph("n")).signature().outputs == {"fc1": (None, 4)}


def test_a_new_file_replaces_the_session() -> None:
    one = OnnxGraph.of(graph(side=8))
    one(torch.zeros(1, 3, 8, 8))
    other = OnnxGraph.of(graph(side=9))
    if one.graph.shape == other.graph.shape:
        one.load_state_dict(other.state_dict())
        assert one(torch.zeros(1, 3, 9, 9)).shape == (1, 4)


@pytest.mark.parametrize("shape", [(1, 3, 9, 8), (3, 8, 8), (1, 1, 8, 8)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="ONNX graph"):
        OnnxGraph.of(graph())(torch.zeros(shape))
