"""The restyle job on a checkpoint in the diffusers layout with a LoRA adapter, as a user starts it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from rich.console import Console
from safetensors.torch import save_file

from acestep.audio.files import encode_audio
from acestep.checkpoints.checkpoint import fingerprint
from acestep.checkpoints.folders import locate
from acestep.errors import CheckpointError, RequestError
from acestep.handler import AceStepHandler
from acestep.inference import GenerationConfig, GenerationParams, generate_music
from pipeline.service.config import ServiceSpec
from pipeline.service.deployment import _model as model_facts
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.restyle import run
from pipeline.workflows.specs import RestyleJob
from tests import miniature
from tests.conftest import tone
from tests.job_command import run_job
from tests.parity.export import WIDTH, make_parts, write_checkpoint
from tests.parity.pipeline_folder import save_pipeline


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A track, the same model in both layouts, an adapter."""
    folder = tmp_path_factory.mktemp("layouts")
    soundfile.write(folder / "a.wav", tone(6.0), 48_000)
    (folder / "tracks.jsonl").write_text(json.dumps({"track_id": "a", "source": "a.wav", "caption": "jazz"}))
    parts = make_parts()
    save_pipeline(folder / "diffusers", parts)
    write_checkpoint(folder / "original", parts, "base")
    (folder / "lora").mkdir()
    (folder / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    key = "base_model.model.layers.1.self_attn.o_proj.lora_{}.weight"
    pair = {key.format("A"): torch.ones(2, 64), key.format("B"): torch.ones(WIDTH, 2)}
    save_file(pair, folder / "lora" / "adapter_model.safetensors")
    return folder


def in_this_process(place: Path, handler: AceStepHandler) -> bytes:
    params = GenerationParams(
        task_type="cover", src_audio=str(place / "a.wav"), caption="jazz", shift=3.0, cfg_interval_end=0.95,
        inference_steps=2, guidance_scale=9.0, audio_cover_strength=0.5, seed=42,
    )  # fmt: skip
    result = generate_music(handler, None, params, GenerationConfig(batch_size=1))
    return encode_audio(result.audios[0]["tensor"], "flac")


@pytest.mark.usefixtures("local_pool")
def test_the_job_reads_the_diffusers_layout_and_hears_the_adapter(place: Path) -> None:
    lora = place / "lora" / "adapter_model.safetensors"  # a file or its folder
    words = (
        f"manifest={place}/tracks.jsonl",
        f"output={place}/out",
        f"model={place}/diffusers",
        f"adapter={lora}",
    )
    quick = ("tracking.enabled=false", "metrics=off", "cover.inference_steps=2")
    done = run_job("restyle", *words, "adapter_scale=0.8", *quick)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = pq.read_table(place / "out" / "results").to_pylist()
    assert row["model_fingerprint"] == fingerprint(locate(place / "diffusers"), place / "lora", 0.8)
    job = json.loads((place / "out" / "job.json").read_text())["job"]
    assert (job["adapter"], job["adapter_scale"]) == (str(lora), 0.8)

    # The other layout gives the same bytes, and no adapter gives others.
    cover = (place / "out" / row["audio_path"]).read_bytes()
    original = str(place / "original")
    adapted = AceStepHandler.from_checkpoint(original, device="cpu", adapter=place / "lora", adapter_scale=0.8)
    assert cover == in_this_process(place, adapted)
    assert cover != in_this_process(place, AceStepHandler.from_checkpoint(original, device="cpu"))


def test_the_service_takes_the_adapters_that_the_job_takes(place: Path) -> None:
    model = locate(place / "original", "base")
    for path in (place / "lora", place / "lora" / "adapter_model.safetensors"):
        spec = ServiceSpec(output=str(place), model=str(place / "original"), variant="base", adapter=str(path))
        assert model_facts(spec).fingerprint == fingerprint(model, place / "lora")
    with pytest.raises(CheckpointError, match=r"a\.wav: not a \.safetensors file"):
        model_facts(ServiceSpec(output=str(place), model=miniature.BASE, adapter=str(place / "a.wav")))


def test_a_scale_out_of_range_cannot_start(place: Path) -> None:
    job = RestyleJob(f"{place}/tracks.jsonl", f"{place}/never", {}, adapter=f"{place}/lora", adapter_scale=1.5)
    with pytest.raises(RequestError, match=r"adapter_scale 1\.5 is out of range"):
        run(job, ConsoleReporter(Console()))
    assert not (place / "never").exists()
