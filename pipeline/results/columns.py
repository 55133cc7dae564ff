"""The columns of result rows: the data dictionary, which every Parquet part carries as metadata of its fields."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from acestep.language.prompt import WORDS
from acestep.sampling.setting import PARAMETERS
from pipeline.catalogue.own_columns import META, META_TYPE
from pipeline.metrics.registry import MEASURES

TEXT, COUNT, LONG, NUMBER = pa.string(), pa.int32(), pa.int64(), pa.float64()
TEXTS, NUMBERS = pa.list_(TEXT), pa.list_(NUMBER)
_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: TEXT,
    bool: pa.bool_(),
    int: LONG,
    int | None: LONG,
    float: NUMBER,
    tuple[float, ...] | None: NUMBERS,
}


@dataclass(frozen=True)
class Column:
    """A column of result rows; ``unit`` is empty where it has none."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""

    @property
    def field(self) -> pa.Field:
        """The column as a field of a schema, its meaning and unit as metadata."""
        known = {"meaning": self.meaning, "unit": self.unit}
        return pa.field(self.name, self.type, metadata={key: text for key, text in known.items() if text})


COLUMNS = (
    Column("item_id", TEXT, "Digest of all that determines the audio."),
    Column("track_id", TEXT, "The track in the manifest."),
    Column("status", TEXT, "`ok`, `failed`, or `rejected` where the manifest row could not be run as written."),
    Column("error_kind", TEXT, "Kind of the error, one word; null where status is ok."),
    Column("error_message", TEXT, "What is wrong, and the remedy."),
    Column("source", TEXT, "URI of the source track."),
    Column("caption", TEXT, WORDS["caption"].meaning),
    Column("reference_audio", TEXT, "URI of the track whose timbre is taken."),
    Column("language", TEXT, "Language that the model read, given or found by the language model."),
    Column("bpm", COUNT, "Tempo that the model read, given or found by the language model.", WORDS["bpm"].unit),
    Column("keyscale", TEXT, "Key that the model read, given or found by the language model."),
    Column("timesignature", TEXT, "Beats of a bar that the model read, given or found by the language model."),
    Column(
        "notes", TEXTS, "What of the request has no effect or another one, and what is special about the source."
    ),
    Column("source_notes", TEXTS, "Kinds of the notes on the source, such as `silent_source`."),
    Column(META, META_TYPE, "The user's own columns of the manifest, by name."),
    Column("stage", COUNT, "Place of the cover in a chain of covers, counted from 1."),
    Column("parent_item_id", TEXT, "The cover that this one was made from."),
    Column("preset", TEXT, "The preset of the row or of the job."),
    Column("setting_id", TEXT, "Digest of the requested setting, whatever the seed."),
    Column("setting_name", TEXT, "Short name of the setting: the parameters that vary in the job."),
    *(
        Column(name, _ARROW_TYPES[parameter.kind], f"Requested. {parameter.meaning}", parameter.unit)
        for name, parameter in PARAMETERS.items()
    ),
    Column("seed", LONG, "Seed of the start noise."),
    Column("effective_guidance", TEXT, "Guidance that really ran; `none` where no step was guided."),
    Column("effective_guidance_scale", NUMBER, "Guidance scale that really ran; 1 is none."),
    Column("effective_inference_steps", COUNT, "Steps that really ran."),
    Column("effective_shift", NUMBER, "Shift that really ran; null where timesteps were given."),
    Column("cover_steps", COUNT, "How many of the steps that ran follow the source."),
    Column(
        "t_start", NUMBER, "Flow time of the noised source that the run starts from; null starts from noise alone."
    ),
    Column("t_switch", NUMBER, "Flow time of the first step without the source; null if every step has it."),
    Column("evaluations", COUNT, "Evaluations of the network that the cover needs if it is made alone."),
    Column("audio_path", TEXT, "The audio file, relative to the output folder."),
    Column("audio_sha256", TEXT, "SHA-256 of the audio file."),
    Column("audio_bytes", LONG, "Size of the audio file.", "bytes"),
    Column("sample_rate", COUNT, "Sample rate of the audio file.", "Hz"),
    Column("frames", LONG, "Samples of each channel."),
    Column("duration_s", NUMBER, "Length of the cover.", "s"),
    Column("source_duration_s", NUMBER, "Length of the source.", "s"),
    *(Column(measure.name, _ARROW_TYPES[measure.kind], measure.meaning, measure.unit) for measure in MEASURES),
    Column("unmeasured", TEXTS, "Measures that could not be taken, each as `name: reason`."),
    Column("model", TEXT, "Name of the model."),
    Column("model_fingerprint", TEXT, "Digest of the model's weights and the adapter's."),
    Column("dtype", TEXT, "Number format of the network, such as `float32`."),
    Column("numerics_version", COUNT, "Incremented when the same request gives other samples than before."),
    Column("read_s", NUMBER, "Time to read and decode the source, shared out equally among its covers.", "s"),
    Column("condition_s", NUMBER, "Time to encode source and words, shared out equally among its covers.", "s"),
    Column("denoise_s", NUMBER, "Time of the sampling steps that no earlier cover had made.", "s"),
    Column("decode_s", NUMBER, "Time to decode the latents.", "s"),
    Column("measure_s", NUMBER, "Time to measure; that of the source is shared out among its covers.", "s"),
    Column("write_s", NUMBER, "Time to encode and write the audio file.", "s"),
    Column("attempt", COUNT, "Number of attempts."),
    Column("node", TEXT, "The machine that made it."),
    Column("finished_at", pa.timestamp("ms", tz="UTC"), "When it was finished, UTC."),
)
SCHEMA = pa.schema([column.field for column in COLUMNS])
