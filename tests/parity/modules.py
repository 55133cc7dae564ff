"""Replay cases of single modules: audio, autoencoder, text, conditions, tokenizer, transformer, guidance."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from acestep.audio.files import load_audio, reference_clip
from acestep.constants import HOP
from acestep.language.prompt import Prompt, lyric_prompt, metadata, text_prompt
from acestep.sampling.dcw import dcw, push_bands
from acestep.sampling.guidance import ADG_CLIP, adg, apg, cfg
from acestep.sampling.plan import Dcw
from tests.parity.cases import EXACT, Case, Golden, compare
from tests.parity.packing import ragged, scatter_clips


def module_cases(golden: Golden) -> Iterator[Case]:
    """Cases of every module whose vectors and checkpoint are there."""
    if golden.has("audio.safetensors"):
        yield from audio_cases(golden)
    if golden.has("vae.safetensors") and golden.autoencoder is not None:
        yield from autoencoder_cases(golden)
    if golden.has("text.json") and golden.text_encoder is not None:
        yield from text_cases(golden)
    for name, folder in golden.named("cond_*.safetensors"):
        yield from condition_cases(golden, name, folder)
    for name, folder in golden.named("tok_*.safetensors"):
        yield from tokenizer_cases(golden, name, folder)
    for name, folder in golden.named("dit_*.safetensors"):
        yield from transformer_cases(golden, name, folder)
    if golden.has("guidance.safetensors"):
        yield from guidance_cases(golden)
    if golden.has("dcw.safetensors"):
        yield from correction_cases(golden)


def audio_cases(golden: Golden) -> Iterator[Case]:
    reference = golden.tensors("audio")
    for file in sorted((golden.folder / "audio").glob("*")):

        def compute(file: Path = file) -> dict[str, Tensor]:
            wave = load_audio(file)
            clip = reference_clip(wave)
            parts = {"length": wave.shape[1], "as_reference_length": clip.shape[1]}
            return {name: torch.tensor([count]) for name, count in parts.items()} | {
                "head": wave[:, :400],
                "tail": wave[:, -400:],
                "every": wave[:, ::61],
                "as_reference_every4801": clip[:, ::4801],
            }

        own = {k.removeprefix(f"{file.name}."): v for k, v in reference.items() if k.startswith(f"{file.name}.")}
        names = ("length", "head", "tail", "every", "as_reference_length", "as_reference_every4801")
        yield from compare(f"audio.{file.name}", compute, own, names)


def autoencoder_cases(golden: Golden) -> Iterator[Case]:
    vae, reference = golden.autoencoder, golden.tensors("vae")
    setting = golden.metadata("vae")

    def encoded(name: str) -> dict[str, Tensor]:
        mean, scale = vae.posterior(reference[f"{name}.audio_i16"].float() / 32768)
        return {"mean": mean, "scale": scale, "std": F.softplus(scale) + 1e-4}

    for name in sorted(key.removesuffix(".audio_i16") for key in reference if key.endswith(".audio_i16")):
        own = {k.removeprefix(f"{name}."): v for k, v in reference.items() if k.startswith(f"{name}.")}
        if name not in setting:
            yield from compare(f"vae.{name}", partial(encoded, name), own, ("mean", "scale", "std"))
            continue
        chunk = setting[name]["chunk_samples"] // HOP, setting[name]["overlap_samples"] // HOP

        def tiled(name: str = name, chunk: tuple[int, int] = chunk) -> dict[str, Tensor]:
            audio = reference[f"{name}.audio_i16"].float() / 32768
            untiled = vae.encode(audio).transpose(1, 2)
            return {"mean": vae.encode(audio, *chunk).transpose(1, 2), "mean_untiled": untiled}

        yield from compare(f"vae.{name}", tiled, own, ("mean", "mean_untiled"))

    if "dec.latents" in reference:

        def decoded() -> dict[str, Tensor]:
            audio = vae.decode(reference["dec.latents"].transpose(1, 2))
            return {"dec.audio_0": audio[:1], "dec.audio_1_every7": audio[1:, :, ::7]}

        yield from compare("vae", decoded, reference, ("dec.audio_0", "dec.audio_1_every7"))
    if "tile_dec.latents" in reference:

        def tiles() -> dict[str, Tensor]:
            latents = reference["tile_dec.latents"].transpose(1, 2)
            chunk = setting["tile_dec"]
            audio = vae.decode(latents, chunk["chunk_frames"], chunk["overlap_frames"])
            seam = (audio - vae.decode(latents)).abs().unflatten(-1, (-1, HOP)).amax((0, 1, 3))
            return {
                "tile_dec.audio_head": audio[..., :512],
                "tile_dec.audio_tail": audio[..., -512:],
                "tile_dec.audio_every": audio[..., ::211],
                "tile_dec.max_abs_diff_per_frame_vs_untiled": seam,
            }

        names = ("audio_head", "audio_tail", "audio_every", "max_abs_diff_per_frame_vs_untiled")
        yield from compare("vae", tiles, reference, [f"tile_dec.{name}" for name in names])


def text_cases(golden: Golden) -> Iterator[Case]:
    encoder, reference = golden.text_encoder, golden.tensors("text")
    for index, given in enumerate(golden.json("text")):
        prompt = Prompt(
            given["caption"],
            given["lyrics"],
            given["language"],
            given["bpm"],
            given["keyscale"],
            given["timesignature"],
        )
        text, lyrics = text_prompt(prompt, given["task"], given["duration"]), lyric_prompt(prompt)
        for name, ours in (
            ("meta_string", metadata(prompt, given["duration"])),
            ("text_prompt", text),
            ("lyric_prompt", lyrics),
        ):
            wanted = given[name]
            same = ours == wanted or (wanted.endswith("...") and ours.startswith(wanted[:-3]))
            yield Case(f"text.{index}.{name}", EXACT, lambda same=same: 0.0 if same else float("inf"))

        def compute(text: str = text, lyrics: str = lyrics) -> dict[str, Tensor]:
            ids, lyric_ids = encoder.token_ids(text, 256), encoder.token_ids(lyrics, 2048)
            hidden, rows = encoder.states(ids)[0], encoder.rows(lyric_ids)[0]
            return {
                "text_ids": torch.tensor(ids),
                "lyric_ids": torch.tensor(lyric_ids),
                "text_hidden": hidden,
                "lyric_embed": rows,
                "text_hidden_last8": hidden[-8:],
                "lyric_embed_last8": rows[-8:],
            }

        own = {k.removeprefix(f"{index}."): v for k, v in reference.items() if k.startswith(f"{index}.")}
        names = ("text_ids", "lyric_ids", "text_hidden", "lyric_embed", "text_hidden_last8", "lyric_embed_last8")
        yield from compare(f"text.{index}", compute, own, names)

    if "batch.text_ids" in reference:

        def batch() -> dict[str, Tensor]:
            return {
                "batch.text_hidden": torch.cat(
                    [encoder.states(ids.tolist()) for ids in reference["batch.text_ids"]]
                )
            }

        yield from compare("text", batch, reference, ["batch.text_hidden"])


def condition_cases(golden: Golden, name: str, folder: Path) -> Iterator[Case]:
    reference = golden.tensors(f"cond_{name}")

    def compute() -> dict[str, Tensor]:
        handler = golden.handler(folder)
        encoder = handler.model.encoder
        lyrics, lyric_mask = reference["lyric_hidden_states"], reference["lyric_attention_mask"]
        clips, order = (
            reference["refer_audio_acoustic_hidden_states_packed"],
            reference["refer_audio_order_mask"],
        )
        text, text_mask = reference["text_hidden_states"], reference["text_attention_mask"]
        timbre, timbre_mask = scatter_clips(encoder.timbre_encoder(clips), order, len(text))
        packed, mask = ragged(encoder, text, text_mask, lyrics, lyric_mask, clips, order)
        silence = handler.silence_frames(handler.model.config.timbre_frames)
        return {
            "out_lyric_encoder": encoder.lyric_encoder(lyrics, lyric_mask),
            "out_timbre": timbre,
            "out_timbre_mask": timbre_mask,
            "out_timbre_silence750": encoder.timbre_encoder(silence)[None],
            "out_encoder_hidden_states": packed,
            "out_encoder_attention_mask": mask,
        }

    names = (
        *("out_lyric_encoder", "out_timbre", "out_timbre_mask", "out_timbre_silence750"),
        *("out_encoder_hidden_states", "out_encoder_attention_mask"),
    )
    yield from compare(f"cond_{name}", compute, reference, names)


def tokenizer_cases(golden: Golden, name: str, folder: Path) -> Iterator[Case]:
    reference = golden.tensors(f"tok_{name}")

    def compute() -> dict[str, Tensor]:
        handler = golden.handler(folder)
        tokenizer, detokenizer = handler.model.tokenizer, handler.model.detokenizer
        latents = reference["latents"]
        missing = -latents.shape[1] % tokenizer.window
        padded = torch.cat((latents, handler.silence_frames(missing).expand(len(latents), -1, -1)), dim=1)
        pooled = tokenizer.pool(padded)
        indices = tokenizer.quantizer.indices(pooled)
        vectors = tokenizer.quantizer.vectors(indices)
        from_codes = tokenizer.quantizer.vectors(reference["codes"].squeeze(-1))
        return {
            "out_pooled": pooled,
            "out_pre_quant": tokenizer.quantizer.project_in(pooled),
            "out_indices": indices[..., None],
            "out_quantized": vectors,
            "out_hints": detokenizer(vectors)[:, : latents.shape[1]],
            "out_quantized_from_codes": from_codes,
            "out_hints_from_codes": detokenizer(from_codes),
        }

    names = (
        "out_pooled",
        "out_pre_quant",
        "out_quantized",
        "out_hints",
        "out_quantized_from_codes",
        "out_hints_from_codes",
    )
    yield from compare(f"tok_{name}", compute, reference, ("out_indices", *names))


def transformer_cases(golden: Golden, name: str, folder: Path) -> Iterator[Case]:
    reference = golden.tensors(f"dit_{name}")
    for case in sorted({key.split(".")[0] for key in reference}):
        own = {k.removeprefix(f"{case}."): v for k, v in reference.items() if k.startswith(f"{case}.")}

        def compute(own: dict[str, Tensor] = own) -> dict[str, Tensor]:
            transformer = golden.handler(folder).model.decoder
            modulation = transformer.modulation(own["t"], own["r"])
            condition, x, context = own["encoder_hidden_states"], own["x"], own["context_latents"]
            alone = []
            for row, length in enumerate(own["encoder_attention_mask"].sum(1).tolist()):
                cross = transformer.cross_attention(condition[row : row + 1, :length])
                rows = slice(row, row + 1)
                alone.append(transformer(x[rows], context[rows], modulation.at(row), cross))
            return {
                "out": transformer(x, context, modulation, transformer.cross_attention(condition)),
                "out_cross_masked": torch.cat(alone),
            }

        yield from compare(f"dit_{name}.{case}", compute, own, ("out", "out_cross_masked"))


def guidance_cases(golden: Golden) -> Iterator[Case]:
    reference, setting = golden.tensors("guidance"), golden.metadata("guidance")
    scale, momentum_weight = float(setting["guidance_scale"]), float(setting["momentum"])
    threshold = float(setting["norm_threshold"])

    def compute() -> dict[str, Tensor]:
        kept, out, out_alone = None, [], []
        for conditional, unconditional in zip(reference["pred_cond"], reference["pred_uncond"], strict=True):
            guided, kept = apg(conditional, unconditional, scale, kept, momentum_weight, threshold)
            out.append(guided)
            out_alone.append(apg(conditional, unconditional, scale, norm_threshold=threshold)[0])
        both = list(zip(reference["pred_cond"], reference["pred_uncond"], strict=True))
        points = list(zip(reference["latents"], reference["sigma"].tolist(), strict=True))
        by_angle = {
            f"out_{kind}": torch.stack(
                [adg(c, u, scale, x, t, kind) for (c, u), (x, t) in zip(both, points, strict=True)]
            )
            for kind in ADG_CLIP
        }
        plain = torch.stack([cfg(c, u, scale) for c, u in both])
        alone = torch.stack(out_alone)
        return {"out_apg": torch.stack(out), "out_apg_nomomentum": alone, "out_cfg": plain} | by_angle

    names = [name for name in reference if name.startswith("out_")]
    yield from compare("guidance", compute, reference, names)


def correction_cases(golden: Golden) -> Iterator[Case]:
    reference, setting = golden.tensors("dcw"), golden.metadata("dcw")
    low, high, pix = (float(setting[name]) for name in ("low", "high", "pix"))

    def compute() -> dict[str, Tensor]:
        x, estimate = reference["x"], reference["y"]
        return {
            "out_low": push_bands(x, estimate, low, 0.0),
            "out_high": push_bands(x, estimate, 0.0, high),
            "out_double": push_bands(x, estimate, low, high),
            "out_pix": dcw(x, estimate, 0.5, Dcw("pix", pix, 0.0)),
        }

    names = [name for name in reference if name.startswith("out_")]
    yield from compare("dcw", compute, reference, names)
