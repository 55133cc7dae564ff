"""A loaded model: the parts of one checkpoint on one device."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from acestep.checkpoints import hub
from acestep.checkpoints.checkpoint import load_autoencoder, load_model, load_silence
from acestep.checkpoints.folders import CheckpointFolders
from acestep.checkpoints.lora import open_adapter
from acestep.checkpoints.verify import check_parts
from acestep.errors import RequestError
from acestep.language.text_encoder import TextEncoder
from acestep.model.ace_step import AceStepModel
from acestep.model.autoencoder import Autoencoder
from acestep.model.compilation import check_compiled, compile_parts, warm_up
from acestep.model.transformer import ConstantCrossAttention
from acestep.runtime.threads import serial_ops
from acestep.runtime.timing import Stopwatch

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class AceStepHandler:
    """What generation needs, loaded once.

    silence: the silence latent ``[frames, channels]``, fp32, on the device.
    null: the model's unconditional branch.
    load_s: seconds that each part took to load.
    """

    folders: CheckpointFolders
    model: AceStepModel
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    silence: Tensor
    null: ConstantCrossAttention
    device: torch.device
    dtype: torch.dtype
    load_s: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_checkpoint(
        cls,
        path_or_hub_id: str | Path,
        variant: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        adapter: str | Path | None = None,
        adapter_scale: float = 1.0,
        compiled: bool = False,
    ) -> "AceStepHandler":
        """Load a model.

        Args:
            path_or_hub_id: a name (``demo``, ``turbo``, ``base``, ...), a checkpoint folder (published or
                diffusers layout) or a hub id.
            variant: which model of a folder that holds several, such as "turbo".
            device: default the GPU where there is one.
            dtype: of the network; default bfloat16 on a GPU and float32 elsewhere. Schedule, state, time
                embedding, tokenizer and guidance run in fp32 whatever this says.
            adapter: a LoRA file or folder (PEFT, diffusers) or a hub id, merged into the weights.
            adapter_scale: how strongly, 0 (no effect) to 1 (as trained).
            compiled: see ``acestep.model.compilation``; for a GPU, and minutes of it at the start.

        Raises:
            CheckpointError: the checkpoint or the adapter is missing, incomplete or of another kind.
            RequestError: the device or dtype is unknown, or the scale is out of range.
        """
        device = pick_device(device)
        dtype = pick_dtype(dtype, device)
        check_compiled(compiled, device, dtype)
        folders = hub.find(str(path_or_hub_id), variant)
        lora = hub.find_adapter(str(adapter)) if adapter else None
        if lora is not None and (note := open_adapter(lora).note()):
            log.warning("%s", note)
        with hub.naming_the_command(folders):
            stopwatch = Stopwatch(lambda: synchronize(device))
            model = load_model(folders.model, device, dtype, folders.name, lora, adapter_scale)
            stopwatch.lap("network")
            autoencoder = load_autoencoder(folders.autoencoder, device, dtype)
            stopwatch.lap("autoencoder")
            text_encoder = TextEncoder(folders.text_encoder, device, dtype)
            stopwatch.lap("text encoder")
            width = text_encoder.model.config.hidden_size
            check_parts(folders, model.config, autoencoder.config, autoencoder.hop, width)
            silence = load_silence(folders.model, model.config.latent_channels).to(device)
        with torch.inference_mode(), serial_ops():
            null = model.decoder.null_cross_attention(model.null_condition_emb)
        stopwatch.lap("rest of the model")
        if compiled:
            compile_parts(model, autoencoder)
            warm_up(model, autoencoder, null)
            stopwatch.lap("compiling")
        return cls(folders, model, autoencoder, text_encoder, silence, null, device, dtype, stopwatch.seconds)

    @property
    def is_turbo(self) -> bool:
        """True for a distilled model: few steps, guidance built in."""
        return self.model.config.is_turbo

    def synchronize(self) -> None:
        """Wait until the device has done what it was given, so that a clock can be read."""
        synchronize(self.device)

    @cached_property
    def silent_clip(self) -> Tensor:
        """What is heard in place of a timbre reference where none is given, ``[1, frames, channels]``."""
        return self.silence_frames(self.model.config.timbre_frames)

    @cached_property
    def silent_timbre(self) -> Tensor:
        """The timbre token ``[1, 1, encoder width]`` of ``silent_clip``, once per model."""
        with torch.inference_mode(), serial_ops():
            return self.model.encoder.timbre(self.silent_clip)

    def silence_frames(self, frames: int) -> Tensor:
        """The first ``frames`` of the silence latent ``[1, frames, channels]``, repeated if it is shorter."""
        repeats = -(-frames // len(self.silence))
        return self.silence.repeat(repeats, 1)[None, :frames]


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device to load on: the one given, else the GPU, else the CPU.

    Raises:
        RequestError: torch does not know the device, or it is not there.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise RequestError(f"device {device!r} is unknown; use 'cpu', 'cuda' or 'cuda:<index>'") from error
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise RequestError(f"device {str(device)!r}: no GPU is visible to this process; use 'cpu'")
    return picked


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype to run in: the one given, else bfloat16 on a GPU, else float32.

    Raises:
        RequestError: the name is not one of ``DTYPES``.
    """
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise RequestError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}")
        return DTYPES[dtype]
    return dtype
