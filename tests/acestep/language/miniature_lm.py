"""A miniature 5 Hz language model on disk: a real Qwen3 causal model and a real byte-level BPE tokenizer."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

CODES = 64
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>")
# Tokens that reach over the ends of values, lines and fields, that begin one another, or that cut characters.
PIECES = [
    *(
        piece.encode()
        for piece in ("30", "300", "0\n", "12", "120", ": 1", ".\n", ".\n\n", "\n ", "\n  ", "\n  A")
    ),
    *(
        piece.encode()
        for piece in (": A", " A", "ion: 1", "m", "minor", "major\n", " major", "C♯", "\nd", "\ndur")
    ),
    *(piece.encode() for piece in ("</", "</think", "e\nk", "en\nt", "4\n", "\n\n", "\u2028", "\x85", "\u3000")),
    *(b"\xe2\x99", b"\x99\xaf", b"\xaf m", b"A\xe2", b"\xad b", b"\xed\xa0", b"\xc3\xa9\xe4", b"\xf3\xa0"),
]


def write(
    folder: Path,
    prefix: str = "model.",
    tied: bool = False,
    shards: int = 1,
    codes: Sequence[int] = range(CODES),
    tags: Sequence[str] = TAGS,
) -> Path:
    """Write a checkpoint into ``folder``, and return it.

    Args:
        prefix: of all tensors but the head's, "model." or "".
        tied: whether the head is the embedding table; it is in no file then.
        shards: more than one are named by an index file.
        codes: the audio codes, in the order of their tokens.
        tags: the tags of the think block.
    """
    tokenizer = build_tokenizer(codes, tags)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=tied,
    )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json_string())
    tokenizer.save(str(folder / "tokenizer.json"))
    tensors = {
        name if name == "lm_head.weight" else prefix + name.removeprefix("model."): tensor
        for name, tensor in _weights(config).items()
    }
    _save(folder, tensors, shards)
    return folder


def build_tokenizer(codes: Sequence[int] = range(CODES), tags: Sequence[str] = TAGS) -> Tokenizer:
    """All single bytes and all of ``PIECES`` with their beginnings; like the published one, it ends texts."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    symbols = dict(zip(range(256), _byte_symbols(), strict=True))
    vocabulary = {symbol: token for token, symbol in enumerate(sorted(symbols.values()))}
    merges = []
    for piece in PIECES:
        written = "".join(symbols[byte] for byte in piece)
        for end in range(2, len(written) + 1):
            if written[:end] not in vocabulary:
                vocabulary[written[:end]] = len(vocabulary)
                merges.append((written[: end - 1], written[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in tags])
    tokenizer.add_tokens([AddedToken(f"<|audio_code_{code}|>", normalized=False) for code in codes])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {SPECIAL[0]}", special_tokens=[(SPECIAL[0], tokenizer.token_to_id(SPECIAL[0]))]
    )
    return tokenizer


def _byte_symbols() -> list[str]:
    """How a byte-level vocabulary writes each byte: as itself where Latin-1 shows it, else from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def _weights(config: Qwen3Config) -> dict[str, Tensor]:
    """Seeded weights, large enough for answers to depend on what was read."""
    generator = torch.Generator().manual_seed(7)
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in Qwen3ForCausalLM(config).state_dict().items()}
    tensors = {}
    for name, shape in sorted(shapes.items()):
        noise = torch.randn(shape, generator=generator)
        tensors[name] = 1 + 0.1 * noise if "norm" in name else 2 * noise / shape[-1] ** 0.5
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    return tensors


def _save(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
