"""Operations and bytes of each part in closed form, for a roofline.

An operation is a multiplication or an addition of a matrix product or a convolution; elementwise work is not
counted. Bytes are a lower bound: weights once per call, inputs and outputs of each layer once, all else fused.

Legend: l transformer tokens (two latent frames each), t latent frames, s condition tokens, h width.
"""

from dataclasses import dataclass

from acestep.model.config import AutoencoderConfig, BlockConfig, ModelConfig

TIME_FREQUENCIES = 256


@dataclass(frozen=True)
class Cost:
    """Operations, and tensor elements that are read or written."""

    flops: float = 0.0
    elements: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.elements + other.elements)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.flops * times, self.elements * times)


def linear(rows: float, width_in: int, width_out: int) -> Cost:
    """A matrix product with weights."""
    return Cost(2 * rows * width_in * width_out, rows * (width_in + width_out) + width_in * width_out)


def scores(config: BlockConfig, pairs: float, queries: float, keys: float) -> Cost:
    """Attention over ``pairs`` of query and key: their products, and the weighted sums of values."""
    width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return Cost(4 * pairs * width, 2 * queries * width + 2 * keys * kv_width)


def visible_pairs(length: int, window: int | None) -> int:
    """Pairs of tokens within ``window`` of each other."""
    if window is None or window >= length - 1:
        return length * length
    return length * (2 * window + 1) - window * (window + 1)


def self_attention(config: BlockConfig, rows: float, pairs: float) -> Cost:
    """Projections and scores of ``rows`` tokens."""
    width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
    inner = linear(rows, config.hidden_size, width + 2 * kv_width) + linear(rows, width, config.hidden_size)
    return inner + scores(config, pairs, rows, rows)


def mlp(config: BlockConfig, rows: float) -> Cost:
    """Gate, up and down projections."""
    wide = linear(rows, config.hidden_size, 2 * config.intermediate_size)
    return wide + linear(rows, config.intermediate_size, config.hidden_size)


def cross_attention(config: BlockConfig, rows: float, tokens: float) -> Cost:
    """Queries, scores and output projection; keys and values are ``cross_keys``."""
    width = config.heads * config.head_dim
    inner = linear(rows, config.hidden_size, width) + linear(rows, width, config.hidden_size)
    return inner + scores(config, rows * tokens, rows, tokens)


def cross_keys(config: ModelConfig, tokens: float) -> Cost:
    """Keys and values of a condition for all layers, once per condition."""
    block = config.decoder
    each = linear(tokens, block.hidden_size, 2 * block.kv_heads * block.head_dim)
    return linear(tokens, config.encoder.hidden_size, block.hidden_size) + each * len(block.windows)


def patches(config: ModelConfig, rows: float, velocities: int = 1) -> Cost:
    """Embedding of latents and context, and output projection of one or two velocities."""
    size, width = config.patch_size, config.decoder.hidden_size
    to_tokens = linear(rows, config.in_channels * size, width)
    return to_tokens + linear(rows * velocities, width, config.latent_channels * size)


def time_embedding(config: ModelConfig, times: float) -> Cost:
    """Both embeddings of ``times`` flow times, with the modulation."""
    width = config.decoder.hidden_size
    one = linear(times, TIME_FREQUENCIES, width) + linear(times, width, width) + linear(times, width, 6 * width)
    return one * 2


def step_needed(config: ModelConfig, frames: int, tokens: int, guided: bool) -> Cost:
    """One evaluation without what is equal in every step, and with exact windows.

    guided: the null velocity as well: its cross-attention is constant, and its self-attention in the first layer
        equals that of the other row. Both rows share one read of the weights.
    """
    block, rows, velocities = config.decoder, -(-frames // config.patch_size), 1 + guided
    total = patches(config, rows, velocities)
    for index, window in enumerate(block.windows):
        attending = velocities if index else 1
        total += self_attention(block, rows * attending, visible_pairs(rows, window) * attending)
        total += cross_attention(block, rows, tokens) + mlp(block, rows * velocities)
    return total


def step_of_peer(config: ModelConfig, frames: int, tokens: int, batch: int) -> Cost:
    """One call of diffusers' transformer: dense masks, and the condition's keys computed again."""
    block, rows = config.decoder, -(-frames // config.patch_size)
    layer = self_attention(block, rows, rows * rows) + cross_attention(block, rows, tokens) + mlp(block, rows)
    once = patches(config, rows) + cross_keys(config, tokens) + time_embedding(config, 1)
    return (once + layer * len(block.windows)) * batch


def encoder_stack(config: BlockConfig, layers: int, rows: float, length: int, width_in: int) -> Cost:
    """Embedding and layers over ``rows`` tokens in sequences of ``length``, with dense masks."""
    layer = self_attention(config, rows, rows * length) + mlp(config, rows)
    return linear(rows, width_in, config.hidden_size) + layer * layers


def codes_and_hints(config: ModelConfig, frames: int) -> Cost:
    """Latents to 5 Hz codes and back."""
    block, window, levels = config.encoder, config.pool_window, len(config.fsq_levels)
    windows = -(-frames // window)
    pooled = encoder_stack(block, config.pooler_layers, windows * (window + 1), window + 1, block.hidden_size)
    # Special tokens skip the embedding: one per pooled window; on the way back one embedding serves a window.
    not_embedded = linear(windows, block.hidden_size, block.hidden_size)
    spread = encoder_stack(block, config.pooler_layers, windows * window, window, block.hidden_size)
    not_embedded_again = linear(windows * (window - 1), block.hidden_size, block.hidden_size)
    ends = linear(windows * window, config.latent_channels, block.hidden_size) * 2
    quantizer = linear(windows, block.hidden_size, levels) * 2
    return pooled + spread + ends + quantizer + not_embedded * -1 + not_embedded_again * -1


def words(config: ModelConfig, lyric_tokens: int, text_tokens: int) -> Cost:
    """The lyric encoder and the projection of the text."""
    block = config.encoder
    lyrics = encoder_stack(block, config.lyric_layers, lyric_tokens, lyric_tokens, config.text_channels)
    return lyrics + linear(text_tokens, config.text_channels, block.hidden_size)


def timbre(config: ModelConfig) -> Cost:
    """The timbre encoder over one clip."""
    frames = config.timbre_frames
    return encoder_stack(config.encoder, config.timbre_layers, frames, frames, config.timbre_channels)


def text_model(config: BlockConfig, tokens: int) -> Cost:
    """The text encoder's layers over one prompt."""
    layer = self_attention(config, tokens, tokens * tokens) + mlp(config, tokens)
    return layer * len(config.windows)


def _conv(rows: float, rows_in: float, channels: int, out: int, taps: int) -> Cost:
    weights = channels * out * taps
    return Cost(2 * rows * weights, rows_in * channels + rows * out + weights)


def _units(rows: float, channels: int) -> Cost:
    return (_conv(rows, rows, channels, channels, 7) + _conv(rows, rows, channels, channels, 1)) * 3


def autoencoder_encode(config: AutoencoderConfig, frames: int) -> Cost:
    """A waveform of ``frames`` whole frames to its posterior."""
    widths = [config.encoder_channels * m for m in (1, *config.multiples)]
    rows = frames
    for ratio in config.ratios:
        rows *= ratio
    total = _conv(rows, rows, config.audio_channels, widths[0], 7)
    for channels, out, ratio in zip(widths, widths[1:], config.ratios, strict=False):
        total += _units(rows, channels) + _conv(rows // ratio, rows, channels, out, 2 * ratio)
        rows //= ratio
    return total + _conv(rows, rows, widths[-1], config.encoder_channels, 3)


def autoencoder_decode(config: AutoencoderConfig, frames: int) -> Cost:
    """Latents to a waveform."""
    widths = [config.decoder_channels * m for m in (1, *config.multiples)][::-1]
    rows = frames
    total = _conv(rows, rows, config.latent_channels, widths[0], 7)
    for channels, out, ratio in zip(widths, widths[1:], reversed(config.ratios), strict=False):
        # Each output has two taps, so the operations equal those of every input with all 2 * ratio taps.
        total += _conv(rows * ratio, rows, channels, out, 2) + _units(rows * ratio, out)
        rows *= ratio
    return total + _conv(rows, rows, widths[-1], config.audio_channels, 7)
