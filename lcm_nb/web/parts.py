"""The mini LCM's three parts as torch modules with plain tensors as inputs and outputs, for the export to trace."""

import copy
import itertools

import torch
from torch import nn
from torch.nn import functional

ROWS = (slice(0, 2), slice(0, 3), slice(1, 3))  # what the first, an inner and the last row of a grid depend on
STRIPS = (slice(0, 2), slice(None), slice(-2, None))


class Text(nn.Module):
    """Token ids of each tokenizer, (1, tokens) int32 -> embeddings (1, tokens, c), of XL's the pooled one (1, p)."""

    def __init__(self, pipe):
        super().__init__()
        self.first, self.second = pipe.text_encoder, getattr(pipe, "text_encoder_2", None)

    def forward(self, ids, ids_2=None):
        first = self.first(ids.long(), output_hidden_states=True)
        if self.second is None:
            return (first[0],)
        second = self.second(ids_2.long(), output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second[0]


class UNet(nn.Module):
    """Noisy latents, timestep (1,), guidance (1,), embeddings, XL's pooled one -> the UNet's output, as the latents.

    SDXL's sizes are a constant; guidance is embedded in the graph, where float32 rounds as it does in torch.
    """

    def __init__(self, pipe, side: float):
        super().__init__()
        self.unet, self.embed = pipe.unet, pipe.get_guidance_scale_embedding
        self.register_buffer("time_ids", torch.tensor([[side, side, 0.0, 0.0, side, side]]), persistent=False)

    def forward(self, latents, timestep, guidance, embeddings, pooled=None):
        weight = self.embed(guidance - 1, embedding_dim=self.unet.config.time_cond_proj_dim)
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": self.time_ids}
        return self.unet(
            latents,
            timestep,
            timestep_cond=weight,
            encoder_hidden_states=embeddings,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]


class Encoder(nn.Module):
    """A picture, (1, 3, side, side), 0 to 1 -> its latents."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, picture):
        return self.vae.encode(2 * picture - 1, return_dict=False)[0] * self.vae.config.scaling_factor


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
