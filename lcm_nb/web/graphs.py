"""The mini LCM's three parts as ONNX graphs whose weights stay in the family's own safetensors.

:mod:`lcm_nb.export` calls this. All shapes come from the models' configs; batch 1.
"""

import copy
import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

OPSET = 18
LEAST = 64  # elements: smaller tensors stay inside the graph
ROWS = (slice(0, 2), slice(0, 3), slice(1, 3))  # what the first, an inner and the last row of a grid depend on
STRIPS = (slice(0, 2), slice(None), slice(-2, None))


class Text(nn.Module):
    """Token ids of both tokenizers, (1, tokens) int32 -> embeddings (1, tokens, c) and the pooled one (1, p)."""

    def __init__(self, pipe):
        super().__init__()
        self.first, self.second = pipe.text_encoder, pipe.text_encoder_2

    def forward(self, ids, ids_2):
        first = self.first(ids.long(), output_hidden_states=True)
        second = self.second(ids_2.long(), output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second[0]


class UNet(nn.Module):
    """Noisy latents, timestep (1,), guidance (1,), embeddings and pooled one -> the UNet's output, as the latents.

    SDXL's sizes are a constant; guidance is embedded in the graph, where float32 rounds as it does in torch.
    """

    def __init__(self, pipe, side: int):
        super().__init__()
        self.unet, self.embed = pipe.unet, pipe.get_guidance_scale_embedding
        self.register_buffer("time_ids", torch.tensor([[side, side, 0.0, 0.0, side, side]]), persistent=False)

    def forward(self, latents, timestep, guidance, embeddings, pooled):
        weight = self.embed(guidance - 1, embedding_dim=self.unet.config.time_cond_proj_dim)
        added = {"text_embeds": pooled, "time_ids": self.time_ids}
        return self.unet(
            latents,
            timestep,
            timestep_cond=weight,
            encoder_hidden_states=embeddings,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]


class Decoder(nn.Module):
    """Clean latents -> the picture, (1, 3, side, side), 0 to 1."""

    def __init__(self, vae):
        super().__init__()
        self.vae = folded(vae)

    def forward(self, latents):
        pictures = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        return (pictures * 0.5 + 0.5).clamp(0, 1)


class FoldedTail(nn.Module):
    """Convolutions and nearest upsampling in a row, as one 3 x 3 convolution on the small grid.

    Such a row is linear, and a cell of the large grid depends on its own cell of the small one and
    the eight around it. Zeros around the picture make the cells at its border differ: these
    have kernels of their own. All nine come from what the row answers to single ones in a 3 x 3 grid.

    Raises
    ------
    ValueError
        If a cell depends on more than its neighbours.
    """

    def __init__(self, tail: nn.Sequential, channels: int):
        super().__init__()
        tail = copy.deepcopy(tail).double()
        with torch.no_grad():
            bias = tail(torch.zeros(1, channels, 3, 3, dtype=torch.float64))
            answer = tail(torch.eye(9 * channels, dtype=torch.float64).reshape(-1, channels, 3, 3)) - bias
        self.scale = scale = answer.shape[-1] // 3
        # (channel, row, column of the one) x (output channel, row, row in the cell, column, column in the cell)
        answer = answer.reshape(channels, 3, 3, -1, 3, scale, 3, scale).permute(4, 6, 3, 5, 7, 0, 1, 2)
        bias = bias.reshape(-1, 3, scale, 3, scale).permute(1, 3, 0, 2, 4).flatten(2)
        for row, column in itertools.product(range(3), range(3)):
            kernel = answer[row, column].flatten(0, 2)
            near = kernel[:, :, ROWS[row], ROWS[column]].clone()
            kernel[:, :, ROWS[row], ROWS[column]] = 0
            if kernel.abs().max() > 1e-9:
                raise ValueError("The decoder's last layers reach farther than one cell; export them as they are.")
            self.register_buffer(f"kernel_{row}{column}", near.float().contiguous())
            self.register_buffer(f"bias_{row}{column}", bias[row, column].float())

    def forward(self, x):
        rows = []
        for row, strip in enumerate(STRIPS):
            cells = [self._cells(x[:, :, strip, part], f"{row}{column}") for column, part in enumerate(STRIPS)]
            rows.append(torch.cat(cells, dim=3))
        return functional.pixel_shuffle(torch.cat(rows, dim=2), self.scale)

    def _cells(self, x, name: str):
        return functional.conv2d(x, getattr(self, f"kernel_{name}"), getattr(self, f"bias_{name}"))


def folded(vae):
    """Return the autoencoder with the linear end of its decoder folded, itself where there is nothing to fold."""
    layers = list(getattr(vae.decoder, "layers", ()))
    start = len(layers)
    while start and isinstance(layers[start - 1], (nn.Conv2d, nn.Upsample)):
        start -= 1
    if not any(isinstance(layer, nn.Upsample) for layer in layers[start:]):
        return vae
    vae = copy.deepcopy(vae)
    channels = next(layer for layer in layers[start:] if isinstance(layer, nn.Conv2d)).in_channels
    vae.decoder.layers = nn.Sequential(*layers[:start], FoldedTail(nn.Sequential(*layers[start:]), channels))
    return vae


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
