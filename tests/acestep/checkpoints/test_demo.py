"""The built-in model: the files that are shipped, what refuses others, and captions of any words."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from acestep.checkpoints import demo
from acestep.checkpoints.checkpoint import fingerprint
from acestep.checkpoints.folders import locate
from acestep.checkpoints.verify import verify
from acestep.errors import CheckpointError
from acestep.generation.conditions import prepare
from acestep.generation.rendering import render
from acestep.handler import AceStepHandler
from acestep.language.prompt import Prompt
from acestep.sampling.plan import resolve
from acestep.sampling.sampler import denoise
from acestep.sampling.setting import CoverSetting
from pipeline.demo_model.publish import MAX_BYTES, publish
from tests import miniature
from tests.conftest import melody


def test_the_shipped_files_are_those_of_the_code() -> None:
    """After ``stage=publish`` this holds; see ``acestep.checkpoints.demo``."""
    demo.check(demo.FOLDER, demo.DIGEST)
    assert (demo.FOLDER / demo.SUMS).read_text() == demo.sums_of(demo.FOLDER)  # and no others
    assert sum(file.stat().st_size for file in demo.FOLDER.rglob("*") if file.is_file()) <= MAX_BYTES
    for file in demo.FOLDER.rglob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert {opened.get_slice(name).get_dtype() for name in opened.keys()} == {"BF16"}  # noqa: SIM118
    base, turbo = (demo.folders(name) for name in ("demo", "demo_turbo"))
    assert [verify(base).is_turbo, verify(turbo).is_turbo] == [False, True]
    assert fingerprint(base) != fingerprint(turbo)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, str]:
    """A folder of two files with its list, and the list's digest."""
    folder = tmp_path / "weights"
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "weights.safetensors").write_bytes(bytes(range(100)))
    (folder / "config.json").write_text("{}")
    (folder / demo.SUMS).write_text(demo.sums_of(folder))
    return folder, hashlib.sha256((folder / demo.SUMS).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("vae/weights.safetensors", bytes(range(99)), "truncated or changed"),
        ("vae/weights.safetensors", bytes(100), "truncated or changed"),
        ("vae/weights.safetensors", None, "not in this copy"),
        (demo.SUMS, b"", "not the list of this version"),
        (demo.SUMS, None, "not in this copy"),
    ],
)
def test_another_file_is_refused_by_name(
    small: tuple[Path, str], name: str, content: bytes | None, told: str
) -> None:
    folder, digest = small
    demo.check(folder, digest)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=told) as raised:
        demo.check(folder, digest)
    assert str(folder / name) in str(raised.value)
    assert demo.REMEDY in str(raised.value)


def test_a_copy_without_the_files_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "FOLDER", tmp_path / "demo_weights")
    with pytest.raises(CheckpointError, match="the built-in model is not in this copy"):
        AceStepHandler.from_checkpoint("demo", device="cpu")


def test_what_is_published_is_what_the_package_then_holds(tmp_path: Path) -> None:
    checkpoints, folder, module = (tmp_path / name for name in ("checkpoints", "weights", "demo.py"))
    shutil.copytree(miniature.FOLDER, checkpoints)
    shutil.copy(demo.__file__, module)
    folder.mkdir()
    (folder / "left_over").write_text("of an older model")
    digest = publish(checkpoints, folder, module)
    demo.check(folder, digest)
    assert f'DIGEST = "{digest}"\n' in module.read_text()
    assert not (folder / "left_over").exists()
    assert fingerprint(locate(folder, "turbo")) == fingerprint(locate(miniature.FOLDER, "turbo"))
    shutil.rmtree(checkpoints / "acestep-v15-turbo")
    with pytest.raises(CheckpointError, match="has no variant 'turbo'"):
        publish(checkpoints, folder, module)
    demo.check(folder, digest)  # nothing was touched


def test_words_that_the_model_does_not_know_do_no_harm() -> None:
    handler = AceStepHandler.from_checkpoint("demo", device="cpu")
    source = torch.from_numpy(melody(5.2)).T
    plan = resolve(CoverSetting(audio_cover_strength=1.0, inference_steps=4, guidance_scale=4.0), handler.is_turbo)
    for caption in ("jazz, Zydeco grüße, 喜び 🎷, quobbelish 0x7f", "Zydeco quobbelish, purple ?!"):
        conditions = prepare(handler, source, Prompt(caption, "[Instrumental]"), [plan])
        latents = denoise(handler.model.decoder, handler.null, [conditions.trajectory(plan, 1)])[0]
        cover = render(handler, latents, plan, conditions)
        assert cover.isfinite().all(), caption
        assert cover.square().mean().sqrt() > 0.01, caption
