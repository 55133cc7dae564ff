"""Fit of a recording to its caption by CLAP (Wu et al. 2023), a joint embedding of audio and text.

CLAP's extractor crops longer audio at random; here it receives fixed windows of 10 s.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError
from torch import Tensor

from acestep.checkpoints.hub import HUB_ID
from acestep.checkpoints.json_files import read_json
from acestep.checkpoints.safetensors_files import weights_are_in
from acestep.constants import SAMPLE_RATE, SILENT_PEAK
from acestep.errors import RequestError
from pipeline.metrics.sound import Found

TEXT, DELTA = "style/clap_text", "style/clap_delta"
USUAL = "laion/larger_clap_music_and_speech"
FILES = ("*.json", "*.safetensors", "merges.txt")
WINDOW = 10 * SAMPLE_RATE
WINDOWS_AT_ONCE = 8


@dataclass(frozen=True)
class Clap:
    """A CLAP model on its device, with its feature extractor and tokenizer."""

    model: Any
    extractor: Any
    tokenizer: Any


def check_style(model: str) -> Path:
    """The folder of a CLAP model; a hub id is downloaded unless it is cached.

    Raises:
        RequestError: there is no such model, or it is incomplete.
        CheckpointError: its configuration is not JSON.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _from_hub(model)
    named = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
    missing = [name for name in named if not (folder / name).is_file()]
    if not weights_are_in(folder):
        missing.append("weights as safetensors")
    if not missing and (kind := read_json(folder / "config.json").get("model_type")) != "clap":
        missing.append(f"CLAP model but one of type {kind!r}")
    if missing:
        remedy = f"give a CLAP model saved by transformers, such as {USUAL}, or set metrics.style=null"
        raise RequestError("invalid_value", f"metrics.style={model!r}: no {' and no '.join(missing)}", remedy)
    return folder


def _from_hub(model: str) -> Path:
    remedy = f"`hf download {USUAL}` where there is a network, then give its folder, or set metrics.style=null"
    if not HUB_ID.fullmatch(model):
        raise RequestError(
            "invalid_value", f"metrics.style={model!r}: neither a folder nor a hub id owner/name", remedy
        )
    try:
        return Path(snapshot_download(model, allow_patterns=list(FILES)))
    except (HTTPError, HFValidationError, OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(
            "invalid_value", f"metrics.style={model!r}: the hub does not give it ({reason})", remedy
        ) from error


def load_clap(model: str, device: torch.device) -> Clap:
    """Load a CLAP model by its folder or hub id.

    Raises:
        RequestError: see ``check_style``; or the model is not CLAP.
    """
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    folder = check_style(model)
    try:
        network = ClapModel.from_pretrained(folder, use_safetensors=True)
        extractor = ClapFeatureExtractor.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # ImportError: the configuration refers to remote code, which is not trusted.
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = f"metrics.style={model!r}: not a CLAP model that can be read ({error})"
        raise RequestError("invalid_value", reason) from error
    return Clap(network.eval().to(device), extractor, tokenizer)


def windows(samples: int) -> list[int]:
    """Start samples of windows of 10 s, evenly spread so that they cover all samples."""
    count = max(1, math.ceil(samples / WINDOW))
    last = max(0, samples - WINDOW)
    return [round(k * last / max(1, count - 1)) for k in range(count)]


def embed(clap: Clap, wave: Tensor) -> Tensor:
    """CLAP embedding ``[features]`` of norm 1 of a recording ``[channels, n]`` at 48 kHz, mean over windows.

    NaN for silence and for samples that are not finite.
    """
    if not SILENT_PEAK <= wave.abs().max() < math.inf:
        return torch.full((clap.model.config.projection_dim,), torch.nan, device=clap.model.device)
    mono = wave.mean(0).cpu().numpy()
    pieces = [mono[start : start + WINDOW] for start in windows(len(mono))]
    found = []
    for k in range(0, len(pieces), WINDOWS_AT_ONCE):
        heard = clap.extractor(pieces[k : k + WINDOWS_AT_ONCE], sampling_rate=SAMPLE_RATE, return_tensors="pt")
        mel = heard["input_features"].to(clap.model.device, clap.model.dtype)
        # The extractor marks a random window as longer.
        longer = torch.zeros(len(mel), 1, dtype=torch.bool, device=mel.device)
        with torch.inference_mode():
            found.append(clap.model.get_audio_features(mel, is_longer=longer).pooler_output.float())
    return torch.nn.functional.normalize(torch.cat(found).mean(0), dim=0)


def embed_text(clap: Clap, caption: str) -> Tensor:
    """CLAP embedding ``[features]`` of norm 1 of a caption."""
    max_tokens = clap.model.config.text_config.max_position_embeddings - 2
    words = clap.tokenizer(caption, truncation=True, max_length=max_tokens, return_tensors="pt").to(
        clap.model.device
    )
    with torch.inference_mode():
        return clap.model.get_text_features(**words).pooler_output[0].float()


def compare(clap: Clap, source: Tensor, cover: Tensor, caption: str) -> Found:
    """Cosine similarity of an embedded cover with its caption, and its gain over the embedded source.

    A text is the reason for a missing value.
    """
    for name, embedding in (("source", source), ("cover", cover)):
        if not embedding.isfinite().all():
            return dict.fromkeys((TEXT, DELTA), f"the {name} is silent or not finite")
    target = embed_text(clap, caption)
    fit = float(cover @ target)
    return {TEXT: fit, DELTA: fit - float(source @ target)}
