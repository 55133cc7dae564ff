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
from acestep.constants import default_dtype
from acestep.errors import RequestError
from acestep.language.text_encoder import TextEncoder
from acestep.model.ace_step import AceStepModel
from acestep.model.autoencoder import Autoencoder
from acestep.model.compilation import check_compiled, compile_parts, warm_up
from acestep.model.transformer_layers import ConstantCrossAttention
from acestep.runtime.threads import serial_ops
from acestep.runtime.timing import Stopwatch

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class AceStepHandler:
    """A loaded checkpoint.

    silence: the silence latent ``[frames, channels]``, fp32, on the device.
    null: cross-attention of the unconditional branch.
    load_s: load time of each part in seconds.
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
            variant: model of a folder that holds several, such as "turbo".
            device: default is the GPU if there is one.
            dtype: dtype of the network; default is bfloat16 on a GPU, float32 elsewhere. Schedule, state, time
                embedding, tokenizer and guidance always use fp32.
            adapter: LoRA file, folder (PEFT, diffusers) or hub id, merged into the weights.
            adapter_scale: weight of the adapter, 0 (no effect) to 1 (as trained).
            compiled: use ``torch.compile`` on a GPU, which takes minutes at the start.

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
        """Whether the model is distilled: few steps, without guidance."""
        return self.model.config.is_turbo

    def synchronize(self) -> None:
        """Wait for pending work on the device, for timing."""
        synchronize(self.device)

    @cached_property
    def silent_clip(self) -> Tensor:
        """Silence latents ``[1, frames, channels]``, the default timbre reference."""
        return self.silence_frames(self.model.config.timbre_frames)

    @cached_property
    def silent_timbre(self) -> Tensor:
        """Timbre token ``[1, 1, encoder width]`` of ``silent_clip``."""
        with torch.inference_mode(), serial_ops():
            return self.model.encoder.timbre(self.silent_clip)

    def silence_frames(self, frames: int) -> Tensor:
        """The first ``frames`` of the silence latent, repeated if necessary: ``[1, frames, channels]``."""
        repeats = -(-frames // len(self.silence))
        return self.silence.repeat(repeats, 1)[None, :frames]


def synchronize(device: torch.device) -> None:
    """Wait for pending work on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pick_device(device: str | torch.device | None) -> torch.device:
    """Resolve a device; the default is the GPU if there is one, else the CPU.

    Raises:
        RequestError: the device is unknown or not available.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        remedy = "use 'cpu', 'cuda' or 'cuda:<index>'"
        raise RequestError("unknown_value", "", remedy, "device", device) from error
    if picked.type == "cuda" and not torch.cuda.is_available():
        reason = "needs a GPU, and none is visible to this process"
        raise RequestError("no_resources", reason, "use 'cpu'", "device", str(device))
    return picked


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Resolve a dtype; the default is bfloat16 on a GPU, else float32.

    Raises:
        RequestError: the name is not one of ``DTYPES``.
    """
    if dtype is None:
        dtype = default_dtype(device.type == "cuda")
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise RequestError("unknown_value", field="dtype", value=dtype, allowed=DTYPES)
        return DTYPES[dtype]
    return dtype
