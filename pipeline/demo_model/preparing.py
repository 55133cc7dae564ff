"""Songs to latents: what the network is trained on, in one file that a machine with a GPU can be given.

Beside latents it holds piano rolls, plans and ready token ids, so that training needs neither sound nor tokenizer.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from acestep.model.autoencoder import Encoder
from pipeline.demo_model import autoencoding
from pipeline.demo_model.arrangers import GENRES
from pipeline.demo_model.flow import LATENT_STEP
from pipeline.demo_model.songs import audio_file, facts_file
from pipeline.demo_model.spectra import HOP
from pipeline.demo_model.teacher import Teacher
from pipeline.demo_model.text import INSTRUMENTAL, prompt

PROMPT_VARIANTS, PROMPT_TOKENS = 4, 112
SILENCE_FRAMES = 750


def in_eight_bits(latents: Tensor) -> Tensor:
    """Latents of variance 1 as small integers, 4 standard deviations at most."""
    return (latents / LATENT_STEP).round().clamp(-127, 127).to(torch.int8)


@torch.inference_mode()
def silence_latent(encoder: Encoder) -> Tensor:
    """Latents ``[SILENCE_FRAMES, c]`` of digital silence."""
    return autoencoding.encode(encoder, torch.zeros(1, 2, (SILENCE_FRAMES + 10) * HOP))[
        0, :SILENCE_FRAMES
    ].contiguous()


@torch.inference_mode()
def song_latents(audio: Tensor, teacher: Teacher, encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Sources and targets ``[g, t, c]`` of a song ``[g, 2, s]``: as the encoder hears it, and as taught."""
    with torch.autocast("cpu", torch.bfloat16):
        source = autoencoding.encode(encoder, audio)
    return source, teacher.latents(audio)


def token_ids(tokenizer: Tokenizer, facts: dict[str, str], draw: random.Random) -> Tensor:
    """Prompts of a song ``[g, 2, PROMPT_VARIANTS, PROMPT_TOKENS]``, padded with -1; see ``flow.Latents``."""
    ids = torch.full((len(GENRES), 2, PROMPT_VARIANTS, PROMPT_TOKENS), -1, dtype=torch.int16)
    known = int(facts["bpm"]), facts["keyscale"], facts["timesignature"]
    for g, genre in enumerate(GENRES):
        for task, name in enumerate(("cover", "text2music")):
            for variant in range(PROMPT_VARIANTS):
                found = tokenizer.encode(prompt(genre, *known, name, draw)).ids
                found = [*found[: PROMPT_TOKENS - 1], found[-1]] if len(found) > PROMPT_TOKENS else found
                ids[g, task, variant, : len(found)] = torch.tensor(found)
    return ids


def prepare(
    folder: Path, seeds: Sequence[int], teacher: Teacher, encoder: Encoder, tokenizer: Tokenizer, file: Path
) -> Iterator[int]:
    """Write the songs' latents to one file; yields each song as it is done."""
    found: dict[str, list[Tensor]] = {name: [] for name in ("sources", "targets", "rolls", "plans", "prompts")}
    for seed in seeds:
        audio = torch.from_numpy(np.load(audio_file(folder, seed)).astype(np.float32) / 32768)
        source, target = song_latents(audio, teacher, encoder)
        with np.load(facts_file(folder, seed), allow_pickle=False) as known:
            facts = {name: str(known[name]) for name in ("bpm", "keyscale", "timesignature")}
            found["rolls"].append(torch.from_numpy(np.packbits(known["roll"], axis=-1)))
            found["plans"].append(torch.from_numpy(known["plan"]).half())
        found["sources"].append(in_eight_bits(source))
        found["targets"].append(in_eight_bits(target))
        found["prompts"].append(token_ids(tokenizer, facts, random.Random(f"prompts {seed}")))
        yield seed
    tensors = {name: torch.stack(parts) for name, parts in found.items()}
    tensors["silence"] = silence_latent(encoder)
    tensors["lyrics"] = torch.tensor(tokenizer.encode(INSTRUMENTAL).ids)
    unfinished = file.with_suffix(".part")
    save_file(tensors, unfinished, metadata={"facts": json.dumps({"vocabulary": tokenizer.get_vocab_size()})})
    unfinished.replace(file)
