"""The folder of a training: where its files are, and what finished stages wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from acestep.errors import RequestError
from acestep.model.autoencoder import Autoencoder, Encoder
from pipeline.demo_model import autoencoding, flow, network, songs
from pipeline.demo_model.plan import Plan
from pipeline.demo_model.sound_data import Clips
from pipeline.demo_model.teacher import Teacher
from pipeline.demo_model.training import Reporter, averaged


@dataclass(frozen=True)
class Training:
    """One training: its folder, plan, seed and device.

    device: where the network is trained; everything else runs on the CPU.
    reporters: called with a stage's name, the step and smoothed losses.
    """

    root: Path
    plan: Plan
    seed: int
    device: torch.device
    reporters: Sequence[Reporter]

    def report(self, stage: str, step: int) -> None:
        """Report the progress of a stage without losses."""
        for reporter in self.reporters:
            reporter(stage, step, {})

    def latents(self, split: str) -> Path:
        return self.root / f"latents_{split}.safetensors"

    @property
    def losses(self) -> Path:
        return self.root / "losses.jsonl"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def songs(self, split: str) -> Path:
        return self.root / "data" / split

    def state(self, stage: str) -> Path:
        return self.root / f"{stage}.safetensors"

    def trained(self, stage: str) -> dict[str, Tensor]:
        """What a stage left.

        Raises:
            RequestError: it did not run yet.
        """
        if not self.state(stage).exists():
            remedy = f"run stage={stage} first"
            raise RequestError("missing_folder", f"{self.state(stage)} is not there", remedy)
        return averaged(self.state(stage))

    @property
    def seeds(self) -> range:
        return range(self.plan.songs)

    @property
    def held_out_seeds(self) -> range:
        return range(songs.HELD_OUT, songs.HELD_OUT + self.plan.held_out)


def load_teacher(training: Training) -> Teacher:
    """The trained bottleneck."""
    module = Teacher()
    module.load_state_dict(training.trained("teacher"))
    return module.requires_grad_(False).eval()


def load_encoder(training: Training) -> Encoder:
    """The trained encoder."""
    encoder = autoencoding.build(training.seed).encoder
    encoder.load_state_dict(training.trained("encoder"))
    return encoder.eval()


def load_autoencoder(training: Training, decoder: str) -> Autoencoder:
    """The trained encoder, and the decoder of a stage."""
    autoencoder = autoencoding.build(training.seed)
    autoencoder.encoder.load_state_dict(training.trained("encoder"))
    autoencoder.decoder.load_state_dict(training.trained(decoder))
    return autoencoder.eval()


def load_network(training: Training, stage: str) -> network.Network:
    """The network that a stage left."""
    vocabulary = Tokenizer.from_file(str(training.tokenizer)).get_vocab_size()
    module = network.Network(vocabulary, training.seed)
    module.load_state_dict(training.trained(stage))
    return module.eval()


def read_latents(training: Training, split: str) -> flow.Latents:
    file = training.latents(split)
    if not file.exists():
        raise RequestError("missing_folder", f"{file} is not there", "run stage=latents first")
    return flow.Latents.read(file, training.device)


def open_clips(training: Training) -> Clips:
    missing = set(training.seeds) - set(songs.complete(training.songs("train")))
    if missing:
        reason = f"{len(missing)} of {training.plan.songs} songs are not there"
        raise RequestError("invalid_value", reason, "run stage=songs first")
    return Clips(training.songs("train"), training.seeds)
