"""The figures of a trained model on compositions that it was not trained on.

Autoencoder: decoded sound beside the original. Covers: beside their source, by strength and by guidance, with an
arrangement of the same song in the target genre as the bound, and unrelated songs as the level of chance.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acestep.checkpoints.folders import MODEL_PREFIX
from acestep.errors import RequestError
from acestep.generation.conditions import prepare
from acestep.generation.rendering import render
from acestep.handler import AceStepHandler
from acestep.language.prompt import Prompt
from acestep.sampling.plan import resolve
from acestep.sampling.sampler import denoise
from acestep.sampling.setting import CoverSetting
from pipeline.demo_model.arrangers import GENRES
from pipeline.demo_model.captions import WORDS
from pipeline.demo_model.classifier import GenreClassifier, describe, train_classifier
from pipeline.demo_model.figures import draw_losses, draw_spectrograms
from pipeline.demo_model.songs import audio_file, complete
from pipeline.demo_model.training_folder import Training
from pipeline.evaluation.statistics import interval
from pipeline.metrics.chance_level import measure_chance
from pipeline.metrics.compute import compare
from pipeline.metrics.features import Features, Music, extract
from pipeline.metrics.sound import loudness
from pipeline.metrics.verdict import HARMONY, MELODY

ONSETS, TIMBRE = "rhythm/onset_corr", "timbre/mfcc_distance"
FRAME_HZ = 25
CLASSIFIER_SONGS = 48
Row = dict[str, float | str]


@dataclass(frozen=True)
class Scope:
    """What is made: covers of ``seeds`` by strength at one guidance, and by guidance at strength 1.

    genres: that the autoencoder is measured in.
    """

    seeds: Sequence[int] = (1, 2, 3)
    strengths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    guidance: float = 4.0
    guidances: Sequence[float] = (1.0, 3.0, 5.0)
    genres: Sequence[int] = range(len(GENRES))

    def settings(self, is_turbo: bool) -> list[tuple[float, float]]:
        """Pairs of strength and guidance, which turbo models do not have."""
        if is_turbo:
            return [(strength, 1.0) for strength in self.strengths]
        guided = [(1.0, guidance) for guidance in self.guidances]
        return [(strength, self.guidance) for strength in self.strengths] + guided


@dataclass(frozen=True)
class Pair:
    """A song in one genre, to be covered in another."""

    song: int
    source: int
    target: int

    @property
    def caption(self) -> str:
        """A plain caption of the target: its name and what plays."""
        names, instruments, moods = (words.split(", ") for words in WORDS[GENRES[self.target]])
        return ", ".join((names[0], *instruments[:3], moods[0]))


def pairs(songs: int) -> list[Pair]:
    """One pair for each song; over twelve songs each genre is a source and a target once."""
    return [Pair(k, k % len(GENRES), (k + 5 + k // len(GENRES)) % len(GENRES)) for k in range(songs)]


def read_songs(folder: Path, seeds: Sequence[int]) -> Tensor:
    """Songs in all genres ``[song, genre, channel, sample]``."""
    return torch.stack([torch.from_numpy(np.load(audio_file(folder, seed))) for seed in seeds]).float() / 32768


def evaluate_training(training: Training, scope: Scope, report_progress: Callable[[str], None]) -> str:
    """Evaluate what a training exported; returns the tables, which are written beside it too.

    Raises:
        RequestError: songs or checkpoints are not there yet.
    """
    for split, wanted in (("held_out", training.held_out_seeds), ("train", training.seeds)):
        if missing := set(wanted) - set(complete(training.songs(split))):
            reason = f"{len(missing)} songs of {split} are not there"
            raise RequestError("invalid_value", reason, "run stage=songs first")
    variants = [v for v in ("base", "turbo") if (training.checkpoints / f"{MODEL_PREFIX}{v}").is_dir()]
    if not variants:
        raise RequestError("missing_folder", f"{training.checkpoints} holds no model", "run stage=export first")
    held_out = read_songs(training.songs("held_out"), training.held_out_seeds)
    classifier = genre_classifier(training.songs("train"), training.seeds)
    report = evaluate(training.checkpoints, held_out, classifier, scope, variants, report_progress)
    draw_spectrograms(_shown(training.checkpoints, held_out), training.root / "spectrograms.png")
    if training.losses.exists():
        draw_losses(training.losses, training.root / "losses.png")
    return write_report(report, training.root)


def evaluate(
    checkpoints: Path,
    held_out: Tensor,
    classifier: GenreClassifier,
    scope: Scope,
    variants: Sequence[str],
    report_progress: Callable[[str], None],
) -> dict[str, object]:
    """All figures: rows of the autoencoder, of the bound and of covers by variant, strength and guidance."""
    features = [extract(list(song)) for song in held_out]
    report: dict[str, object] = {"chance": _chance(features), "bound": _bound(held_out, features, classifier)}
    for variant in variants:
        handler = AceStepHandler.from_checkpoint(checkpoints, variant, device="cpu")
        if "autoencoder" not in report:
            report["autoencoder"] = autoencoder_rows(handler, held_out, features, scope.genres)
            report_progress("autoencoder measured")
        report[variant] = cover_rows(handler, held_out, features, classifier, scope, report_progress)
    return report


def genre_classifier(folder: Path, seeds: Sequence[int]) -> GenreClassifier:
    """Trained on songs that covers are not made of."""
    songs = (read_songs(folder, [seed])[0] for seed in seeds[:CLASSIFIER_SONGS])
    described = torch.stack([describe(song) for song in songs])  # [song, genre, f]
    return train_classifier(list(described.unbind(1)))


def autoencoder_rows(
    handler: AceStepHandler, held_out: Tensor, features: list[list[Features]], genres: Sequence[int]
) -> list[Row]:
    """A row for each song and genre."""
    rows = []
    for song, known in zip(held_out, features, strict=True):
        for genre in genres:
            wave, original = song[genre], known[genre]
            decoded = handler.autoencoder.decode(handler.autoencoder.encode(wave[None]))[0]
            row = measured(original, extract([decoded])[0])
            row["loudness_db"] = difference(loudness(decoded), loudness(wave))
            row["comb_db"] = comb_db(decoded) - comb_db(wave)
            rows.append({**row, "genre": GENRES[genre]})
    return rows


def cover_rows(
    handler: AceStepHandler,
    held_out: Tensor,
    features: list[list[Features]],
    classifier: GenreClassifier,
    scope: Scope,
    report_progress: Callable[[str], None],
) -> list[Row]:
    """A row for each song, seed, strength at one guidance, and guidance at strength 1."""
    settings = scope.settings(handler.is_turbo)
    plans = [
        resolve(CoverSetting(audio_cover_strength=s, guidance_scale=g, shift=3.0 if handler.is_turbo else 1.0),
                handler.is_turbo)
        for s, g in settings
    ]  # fmt: skip
    rows: list[Row] = []
    for pair in pairs(len(held_out)):
        source, original = held_out[pair.song, pair.source], features[pair.song][pair.source]
        conditions = prepare(handler, source, Prompt(pair.caption, "[Instrumental]"), plans)
        for seed in scope.seeds:
            trajectories = [conditions.trajectory(plan, seed) for plan in plans]
            found = denoise(handler.model.decoder, handler.null, trajectories)
            for (strength, guidance), plan, latents in zip(settings, plans, found, strict=True):
                wave = render(handler, latents, plan, conditions)
                chances = classifier.probabilities(wave[None])[0]
                row: Row = {"song": pair.song, "seed": seed, "strength": strength, "guidance": guidance}
                row |= measured(original, extract([wave])[0])
                row |= {"genre": float(chances[pair.target]), "heard": float(chances.argmax() == pair.target)}
                rows.append(row)
        report_progress(f"song {pair.song}: {GENRES[pair.source]} to {GENRES[pair.target]}")
    return rows


def _shown(checkpoints: Path, held_out: Tensor) -> dict[str, Tensor]:
    """The first song, covers of it at three strengths, and its true arrangement, by titles."""
    handler = AceStepHandler.from_checkpoint(checkpoints, "base", device="cpu")
    pair = pairs(len(held_out))[0]
    source, title = held_out[pair.song, pair.source], GENRES[pair.target]
    shown = {f"source: {GENRES[pair.source]}": source}
    settings = [CoverSetting(audio_cover_strength=s, guidance_scale=4.0, shift=1.0) for s in (0.0, 0.5, 1.0)]
    plans = [resolve(setting, is_turbo=False) for setting in settings]
    conditions = prepare(handler, source, Prompt(pair.caption, "[Instrumental]"), plans)
    trajectories = [conditions.trajectory(plan, 1) for plan in plans]
    covers = denoise(handler.model.decoder, handler.null, trajectories)
    for setting, plan, latents in zip(settings, plans, covers, strict=True):
        shown[f"{title}, strength {setting.audio_cover_strength:g}"] = render(handler, latents, plan, conditions)
    return shown | {f"true arrangement: {title}": held_out[pair.song, pair.target]}


def _bound(held_out: Tensor, features: list[list[Features]], classifier: GenreClassifier) -> list[Row]:
    """What the arrangement in the target genre measures beside the source."""
    rows = []
    for pair in pairs(len(held_out)):
        chances = classifier.probabilities(held_out[pair.song, pair.target][None])[0]
        row = measured(features[pair.song][pair.source], features[pair.song][pair.target])
        rows.append(row | {"genre": float(chances[pair.target]), "heard": float(chances.argmax() == pair.target)})
    return rows


def _chance(features: list[list[Features]]) -> dict[str, float]:
    """95th percentile of unrelated songs, in the genres of the pairs."""
    chosen = pairs(len(features))
    sources = [(str(p.song), features[p.song][p.source]) for p in chosen]
    others = [(str(p.song), features[p.song][p.target]) for p in chosen]
    return dict(measure_chance(sources, others).p95)


def measured(source: Features, cover: Features) -> Row:
    """The measures of this report; NaN where one has no value."""
    names = {"harmony": HARMONY, "melody": MELODY, "onsets": ONSETS, "timbre": TIMBRE}
    if not isinstance(source.music, Music) or not isinstance(cover.music, Music):
        return dict.fromkeys(names, float("nan"))
    found = compare(source.music, cover.music)
    numbers = {name: found[measure] for name, measure in names.items()}
    return {name: float("nan") if isinstance(value, str) else float(value) for name, value in numbers.items()}


def difference(one: float | str, other: float | str) -> float:
    """``one - other``, NaN where either is the reason for no value."""
    return float("nan") if isinstance(one, str) or isinstance(other, str) else one - other


def comb_db(wave: Tensor) -> float:
    """Energy within 2 Hz of multiples of 25 Hz, of all between 100 Hz and 2 kHz, in dB, of ``[2, n]``."""
    mono = wave.mean(0)
    window = 48_000
    pieces = mono.unfold(0, window, window // 2) * torch.hann_window(window)
    power = torch.fft.rfft(pieces).abs().square().sum(0)[100:2001]  # a bin is a Hz
    away = (torch.arange(100, 2001) + FRAME_HZ // 2) % FRAME_HZ - FRAME_HZ // 2
    return float(10 * torch.log10(power[away.abs() <= 2].sum() / power.sum()))


def summarise(rows: Sequence[Row], by: Sequence[str], unit: str) -> list[Row]:
    """Mean of each figure with a 95 % interval over units (songs), for each value of ``by``."""
    groups: dict[tuple[float | str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    names = [
        name for name, value in rows[0].items() if name not in (*by, unit, "seed") and isinstance(value, float)
    ]
    summary = []
    for key, some in groups.items():
        units = sorted({row.get(unit, i) for i, row in enumerate(some)}, key=str)
        values = np.array(
            [
                [np.nanmean([row[n] for i, row in enumerate(some) if row.get(unit, i) == u]) for n in names]
                for u in units
            ]
        )
        low, high = interval(values)
        line: Row = dict(zip(by, key, strict=True)) | {"units": len(units)}
        for k, name in enumerate(names):
            line |= {name: float(np.nanmean(values[:, k])), f"{name}_low": low[k], f"{name}_high": high[k]}
        summary.append(line)
    return summary


def markdown(rows: Sequence[Row], by: Sequence[str]) -> str:
    """A summary as a table: mean, and the interval in brackets."""
    names = [name for name in rows[0] if name not in (*by, "units") and not name.endswith(("_low", "_high"))]
    lines = [f"| {' | '.join((*by, *names))} |", f"|{'---|' * (len(by) + len(names))}"]
    for row in rows:
        keys = [f"{row[name]:g}" if isinstance(row[name], float) else str(row[name]) for name in by]
        cells = [f"{row[n]:.2f} ({row[f'{n}_low']:.2f}..{row[f'{n}_high']:.2f})" for n in names]
        lines.append(f"| {' | '.join((*keys, *cells))} |")
    return "\n".join(lines)


def write_report(report: dict[str, object], folder: Path) -> str:
    """Rows to ``evaluation.json``, tables to ``evaluation.md``; returns the tables."""
    parts = [f"Chance, 95th percentile: {report['chance']}"]
    for name, by, unit in (
        ("autoencoder", (), "clip"),
        ("autoencoder", ("genre",), "clip"),
        ("bound", (), "clip"),
        ("base", ("strength", "guidance"), "song"),
        ("turbo", ("strength", "guidance"), "song"),
    ):
        rows = report.get(name)
        if isinstance(rows, list):
            by_what = f" by {' and '.join(by)}" if by else ""
            parts.append(f"{name}{by_what}\n\n{markdown(summarise(rows, by, unit), by)}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(report, indent=1))
    text = "\n\n".join(parts)
    (folder / "evaluation.md").write_text(text + "\n")
    return text
