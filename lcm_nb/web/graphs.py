"""Torch modules as ONNX graphs whose weights stay in the family's own safetensors. :mod:`lcm_nb.export` calls this."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

OPSET = 18
LEAST = 64  # elements: smaller tensors stay inside the graph


def write_graph(path: Path, module: nn.Module, inputs: Mapping[str, torch.Tensor], outputs: list[str]) -> None:
    """Trace a module with inputs of these shapes and write its graph, weights inside."""
    program = torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=outputs,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    model = program.model_proto
    for node in model.graph.node:  # where a node comes from, in every node: more than the graph itself, with paths
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    onnx.save(model, path)


def point_into(path: Path, weights: list[Path]) -> dict[str, int]:
    """Replace what a graph's initializers repeat by offsets into safetensors beside it.

    Float16 there is cast to float32 in the graph, and turned where the exporter turned it; onnxruntime does both
    once, while it loads. The rest, a few thousand numbers, stays in the graph.

    Returns
    -------
    used
        Name of a file -> how many of its first bytes the graph now reads.
    """
    model = onnx.load(path)
    graph, places = model.graph, _tensors(weights)
    kept, nodes, used = {}, [], {}
    for tensor in graph.initializer:
        place = _place(onnx.numpy_helper.to_array(tensor), places)
        if place is None:
            kept[tensor.name] = tensor
            continue
        file, dtype, offset, length, shape, turned = place
        stored = _outside(f"{file}:{offset}", file, dtype, offset, length, shape)
        kept[stored.name] = stored
        used[file] = max(used.get(file, 0), offset + length)
        name = f"{tensor.name}.turned" if turned else tensor.name
        nodes.append(onnx.helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT))
        if turned:
            nodes.append(onnx.helper.make_node("Transpose", [name], [tensor.name], perm=[1, 0]))
    nodes += list(graph.node)
    for field, values in ((graph.initializer, kept.values()), (graph.node, nodes)):
        values = list(values)
        del field[:]
        field.extend(values)
    path.write_bytes(model.SerializeToString())
    return used


def _tensors(weights: list[Path]) -> dict[tuple, tuple]:
    """Return (shape, float32 bytes) -> (file, dtype, offset, length, shape) of all tensors in safetensors."""
    places = {}
    for path in weights:
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        for name, entry in header.items():
            if name == "__metadata__" or entry["dtype"] not in ("F16", "F32"):
                continue
            first, last = (start + offset for offset in entry["data_offsets"])
            dtype = np.float16 if entry["dtype"] == "F16" else np.float32
            values = np.frombuffer(data[first:last], dtype).reshape(entry["shape"]).astype(np.float32)
            place = (path.name, dtype, first, last - first, entry["shape"])
            places[values.shape, values.tobytes()] = place
    return places


def _place(values: np.ndarray, places: dict[tuple, tuple]) -> tuple | None:
    """Return where an initializer's values lie in the safetensors, and whether turned; None if nowhere."""
    if values.dtype != np.float32 or values.size < LEAST:
        return None
    if place := places.get((values.shape, values.tobytes())):
        return (*place, False)
    if values.ndim == 2 and (place := places.get((values.T.shape, np.ascontiguousarray(values.T).tobytes()))):
        return (*place, True)
    return None


def _outside(name: str, file: str, dtype: type, offset: int, length: int, shape: list[int]) -> onnx.TensorProto:
    """Return an initializer whose bytes lie in a file beside the graph."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": file, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
