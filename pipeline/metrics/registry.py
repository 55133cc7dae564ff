"""Registry of measures. Names are result columns and MLflow metrics.

A measure of the default group is declared here and computed in ``pipeline.metrics.compute``; one of an extra group
is computed by ``pipeline.metrics.evaluator``.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One measure.

    better: "high" or "low" if higher or lower values mean a better cover, "" if the measure is descriptive.
    extra: optional group that computes it; "" is the default group.
    label: its name in figures and on the listening page, which show no measure without one first.
    scale: fixed ends of its colour scale, so that pages can be compared.
    """

    name: str
    unit: str
    better: str
    meaning: str
    kind: type[float] | type[int] | type[bool] = float
    extra: str = ""
    label: str = ""
    scale: tuple[float, float] | None = None


MEASURES = (
    Measure(
        "harmony/chroma_excess",
        "",
        "high",
        "harmony kept beyond what chance gives: 1 all, 0 none",
        label="Harmony",
        scale=(0, 1),
    ),
    Measure("harmony/chroma_pearson", "", "high", "mean correlation of the chroma frames, chance included"),
    Measure("harmony/chroma_excess_any_key", "", "high", "harmony kept, whatever key the cover is in"),
    Measure("harmony/key_shift", "semitones", "", "how far up the cover is transposed, 0..11", int),
    Measure(
        "melody/salience_excess",
        "",
        "high",
        "share of frames with the source's leading note, beyond chance",
        label="Melody",
        scale=(0, 1),
    ),
    Measure(
        "structure/ssm_corr",
        "",
        "high",
        "correlation of the self-similarities of cover and source",
        label="Structure",
        scale=(0, 1),
    ),
    Measure("structure/repetition_p90", "", "", "how much of the cover repeats itself; near 1 is a stuck loop"),
    Measure("rhythm/onset_corr", "", "high", "onsets where the source has them", label="Rhythm", scale=(0, 1)),
    Measure("rhythm/tempo_ratio_octave", "octaves", "", "log2 of the tempo ratio, folded to -0.5..0.5"),
    Measure("align/lag_s", "s", "", "how much later the cover plays than the source"),
    Measure(
        "timbre/mfcc_distance",
        "dB",
        "high",
        "distance of the mean MFCCs of cover and source, in any direction",
        label="Timbre distance",
        scale=(0, 40),
    ),
    Measure("copy/waveform_corr", "", "low", "correlation of the two waveforms; near 1 is the source itself"),
    Measure("audio/lufs", "LUFS", "", "integrated loudness, ITU-R BS.1770", label="Loudness", scale=(-30, -5)),
    Measure("audio/true_peak_dbfs", "dBFS", "", "peak of the fourfold oversampled waveform"),
    Measure("audio/clipped_frac", "", "low", "share of samples at full scale"),
    Measure("audio/silence_frac", "", "low", "share of 0.1 s frames under -60 dBFS"),
    Measure("audio/lead_silence_s", "s", "", "silence before the first sound"),
    Measure("audio/tail_silence_s", "s", "", "silence after the last sound"),
    Measure("audio/flatness", "", "", "spectral flatness: 1 is white noise, near 0 a tone"),
    Measure("audio/duration_error_s", "s", "", "how much longer the cover is than the source"),
    Measure("audio/finite", "", "high", "no sample is NaN or infinite", bool),
    Measure(
        "melody/raw_chroma_accuracy",
        "",
        "high",
        "share of voiced frames with the source's pitch class",
        extra="melody",
    ),
    Measure("style/clap_text", "", "high", "how well the sound fits the caption (CLAP)", extra="style"),
    Measure("style/clap_delta", "", "high", "how much better it fits than the source does", extra="style"),
)
BY_NAME = {measure.name: measure for measure in MEASURES}
