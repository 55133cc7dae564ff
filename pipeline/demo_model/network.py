"""The network in training: ``acestep``'s modules over batches of padded prompts, and heads that are not exported.

Legend: b batch, t latent frames, w = t / 5 windows, c latent channels, h width, s text tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.model.ace_step import AceStepModel
from acestep.model.attention import band, repeat_heads
from acestep.model.config import BlockConfig, parse_model_config
from acestep.model.layers import Attention, EncoderLayer, RMSNorm, positions
from acestep.model.transformer import DecoderLayer, DiffusionTransformer
from pipeline.demo_model.rendering import ROLL_WIDTH
from pipeline.demo_model.teacher import CHANNELS

WIDTH, LAYERS, TEXT_WIDTH, TEXT_LAYERS = 128, 5, 64, 2
LEVELS = [8, 8, 8, 5, 5, 5]
MELODY_LOWEST, MELODY_CLASSES = 55, 38  # class 0 is a rest
CODE_HEAD = {"root": 12, "quality": 4, "melody": MELODY_CLASSES}
ONSET_DIMENSION = 2  # of the codes: 8 levels, for no onset and for the five frames of a window
DECODER_SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": WIDTH // 4,
}
TEXT_SIZES = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 160,
    "num_hidden_layers": TEXT_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
SHARED_SIZES = {"rope_theta": 1_000_000, "rms_norm_eps": 1e-6, "attention_bias": False, "dtype": "bfloat16"}


def model_config(variant: str) -> dict[str, Any]:
    """The published form of the network's configuration; ``variant`` is base or turbo."""
    return {
        "model_type": "acestep",
        "architectures": ["AceStepConditionGenerationModel"],
        **DECODER_SIZES,
        **SHARED_SIZES,
        "num_lyric_encoder_hidden_layers": 1,
        "num_timbre_encoder_hidden_layers": 1,
        "num_attention_pooler_hidden_layers": 1,
        "text_hidden_dim": TEXT_WIDTH,
        "audio_acoustic_hidden_dim": CHANNELS,
        "timbre_hidden_dim": CHANNELS,
        "timbre_fix_frame": 750,
        "in_channels": 3 * CHANNELS,
        "patch_size": 2,
        "pool_window_size": 5,
        "fsq_dim": WIDTH,
        "fsq_input_levels": LEVELS,
        "fsq_input_num_quantizers": 1,
        "use_sliding_window": True,
        # 2.6 s to each side in every layer: what is learned on clips of six seconds holds in songs of any length.
        "sliding_window": 32,
        "layer_types": ["sliding_attention"] * LAYERS,
        "is_turbo": variant == "turbo",
        "model_version": variant,
    }


def text_config(vocabulary: int) -> dict[str, Any]:
    """The published form of the text encoder's configuration."""
    kind = {"model_type": "qwen3", "architectures": ["Qwen3Model"], "tie_word_embeddings": True}
    return {**kind, **TEXT_SIZES, **SHARED_SIZES, "vocab_size": vocabulary}


class TextEncoder(nn.Module):
    """Qwen3 as it is written in ``transformers``, under the same names, without the need for that package."""

    def __init__(self, vocabulary: int):
        super().__init__()
        heads, kv_heads = TEXT_SIZES["num_attention_heads"], TEXT_SIZES["num_key_value_heads"]
        sizes = TEXT_WIDTH, TEXT_SIZES["intermediate_size"], heads, kv_heads, TEXT_SIZES["head_dim"]
        self.config = BlockConfig(*sizes, 1e-6, 1_000_000, (None,) * TEXT_LAYERS)
        self.embed_tokens = nn.Embedding(vocabulary, TEXT_WIDTH)
        self.layers = nn.ModuleList(EncoderLayer(self.config) for _ in range(TEXT_LAYERS))
        self.norm = RMSNorm(TEXT_WIDTH, 1e-6)

    def forward(self, ids: Tensor) -> Tensor:
        """``[b, s]`` -> states ``[b, s, TEXT_WIDTH]``; each token sees those before it."""
        x = self.embed_tokens(ids)
        at = positions(ids.shape[1], self.config, ids.device, x.dtype)
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        for layer in self.layers:
            x = layer(x, at, causal)
        return self.norm(x)


class Network(nn.Module):
    """All that is trained on latents."""

    def __init__(self, vocabulary: int, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.model = AceStepModel(parse_model_config(model_config("base"), "base"))
        self.text = TextEncoder(vocabulary)
        initialise(self)
        self.code_head = nn.Sequential(nn.Linear(WIDTH, 192), nn.SiLU(), nn.Linear(192, sum(CODE_HEAD.values())))
        self.middle_head = nn.Linear(WIDTH, ROLL_WIDTH)

    def quantised(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Code vectors ``[b, w, h]`` of ``[b, t, c]``, t a multiple of 5, and codes before rounding ``[b, w, f]``.

        The gradient of the rounding is taken as 1.
        """
        tokenizer = self.model.tokenizer
        top = torch.tensor(LEVELS, device=latents.device) - 1
        scale = 1 + 1 / top
        z = torch.tanh(tokenizer.quantizer.project_in(tokenizer.pool(latents)).float() / scale) * scale
        rounded = 2 * torch.floor(top * (z.clamp(-1, 1) + 1) / 2 + 0.5) / top - 1
        return tokenizer.quantizer.project_out(z + (rounded - z).detach()), z

    def conditions(self, ids: Tensor, lengths: Tensor, lyrics: Tensor, silence: Tensor) -> tuple[Tensor, Tensor]:
        """Condition tokens ``[b, n, h]`` and which of them are real ``[b, n]``.

        Args:
            ids: ``[b, s]``, padded on the right; ``lengths`` ``[b]`` without padding.
            lyrics: token ids ``[tokens]``; ``silence`` ``[frames, c]``: no reference. All items share both.
        """
        encoder = self.model.encoder
        timbre = encoder.timbre_encoder
        # Only the first frame's state is read out, and windowed layers let it see no further than this.
        windows = timbre.config.windows[: len(timbre.layers)]
        silence = silence if None in windows else silence[: 1 + sum(w for w in windows if w is not None)]
        shared = torch.cat(
            (
                encoder.lyric_encoder(self.text.embed_tokens(lyrics)[None]),
                timbre(silence[None])[:, None],
            ),
            dim=1,
        )
        text = encoder.text_projector(self.text(ids))
        written = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        real = torch.cat((written.new_ones(len(ids), shared.shape[1]), written), dim=1)
        return torch.cat((shared.expand(len(ids), -1, -1), text), dim=1), real

    def velocity(
        self, x: Tensor, context: Tensor, t: Tensor, conditions: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Velocities ``[b, t, c]`` at flow times ``t`` ``[b]``, and the state in the middle ``[b, t / 2, h]``."""
        decoder = self.model.decoder
        modulation = decoder.modulation(t)
        h = decoder.proj_in(torch.cat((context, torch.ones_like(context), x), -1).transpose(1, 2)).transpose(1, 2)
        at = positions(h.shape[1], decoder.config, h.device, torch.float32)
        tokens = decoder.condition_embedder(conditions)
        middle = h
        for index, (layer, window) in enumerate(zip(decoder.blocks, decoder.config.windows, strict=True)):
            h = _layer(layer, h, modulation.layers[:, index], at, window, tokens, real[:, None, None])
            if index == len(decoder.blocks) // 2:
                middle = h
        shift, scale = modulation.final.unsqueeze(2).unbind(1)
        h = decoder.norm_out(h) * (1 + scale) + shift
        return decoder.proj_out(h.transpose(1, 2)).transpose(1, 2).float(), middle


def _layer(
    layer: DecoderLayer, h: Tensor, modulation: Tensor, at: Any, window: int | None, tokens: Tensor, real: Tensor
) -> Tensor:
    """``DecoderLayer.forward`` for a batch whose conditions are padded."""
    shift, scale, gate = modulation[:, :3].unsqueeze(2).unbind(1)
    q, k, v = layer.self_attn.placed(layer.self_attn_norm(h) * (1 + scale) + shift, at)
    length = h.shape[1]
    near = None if window is None or window >= length - 1 else band(length, length, 0, window, h.device)
    h = h + gate * _attended(layer.self_attn, q, k, v, near)
    cross = layer.cross_attn
    q, k, v = cross.queries(layer.cross_attn_norm(h)), cross.keys(tokens), cross.values(tokens)
    return layer.feed_forward(h + _attended(cross, q, k, v, real), modulation)


def _attended(attention: Attention, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    k, v = repeat_heads(k, attention.heads), repeat_heads(v, attention.heads)
    q, k = q.to(v.dtype), k.to(v.dtype)
    return attention.merged(F.scaled_dot_product_attention(q, k, v, attn_mask=visible))


def initialise(network: Network) -> None:
    """Random weights at which signals keep their size; gates of the decoder are open."""
    for name, p in network.named_parameters():
        if "norm" in name.rsplit(".", 2)[-2]:
            nn.init.ones_(p)
        elif p.ndim == 1 or "scale_shift_table" in name:
            nn.init.zeros_(p)
        elif name == "text.embed_tokens.weight" or "special" in name or "null" in name:
            nn.init.normal_(p, std=0.5)
        else:
            reads = p.shape[0] if "decoder.proj_out" in name else p[0].numel()
            small = {"time_proj": 0.1, "decoder.proj_out": 0.2, "o_proj": 0.5, "down_proj": 0.5}
            nn.init.normal_(p, std=next((f for part, f in small.items() if part in name), 1.0) * reads**-0.5)
    decoder: DiffusionTransformer = network.model.decoder
    for layer in decoder.blocks:
        layer.scale_shift_table.data[:, [2, 5]] = 1.0


def optimisers(network: Network) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) for the matrices inside layers, AdamW for the rest."""
    inner = [p for name, p in network.named_parameters() if p.ndim == 2 and "layers." in name]
    known = {id(p) for p in inner}
    rest = [p for p in network.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(inner, lr=0.02, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
