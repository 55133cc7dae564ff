"""Facts of the ACE-Step 1.5 models that no configuration file carries."""

SAMPLE_RATE = 48_000  # Hz, of every waveform the autoencoder sees
LATENT_RATE = 25  # Hz, latent frames per second
HOP = SAMPLE_RATE // LATENT_RATE  # 1920 samples per latent frame
MIN_LATENT_FRAMES = 128  # shorter sources are padded with the silence latent: 5.12 s
MIN_WORK_S = MIN_LATENT_FRAMES / LATENT_RATE  # a shorter source is as much work
MAX_SOURCE_SECONDS = 600.0  # the models were not trained beyond ten minutes
MAX_TURBO_STEPS = 20
FSQ_CODES = 64_000  # of one 5 Hz window: 8 x 8 x 8 x 5 x 5 x 5 levels
COLLAPSED_SHARE = 0.1  # of the source's RMS: a cover below that (-20 dB) has lost its energy
# A cover whose peak stays below -80 dBFS, three steps of a 16-bit file, holds nothing: raising that to a normal
# level would publish the rounding noise of the decoder. The quietest covers heard of peak 50 dB above it.
SILENT_PEAK = 1e-4
MAX_FILE_BYTES = 4 << 30  # ten minutes of 384 kHz stereo float are 1.8 GB; nothing larger is read at all
SEED_LIMIT = 2**32  # seeds are below this
RANDOM_SEED = -1  # in place of a seed: draw one

UNDERSTANDING_SEED = 0  # of what the language model samples: the same facts for every seed of a track

# Raised whenever the same request would give different samples than before; part of every item's identity.
NUMERICS_VERSION = 7

COVER_TASKS = ("cover", "cover-nofsq")
INSTRUCTIONS = {
    "text2music": "Fill the audio semantic mask based on the given conditions:",
    "cover": "Generate audio semantic tokens based on the given conditions:",
    "cover-nofsq": "Generate audio semantic tokens based on the given conditions:",
}
INSTRUMENTAL = "[Instrumental]"

LANGUAGES = frozenset(
    """ar az bg bn ca cs da de el en es fa fi fr he hi hr ht hu id is it ja ko la lt ms ne nl no pa pl pt
    ro ru sa sk sr sv sw ta te th tl tr uk ur vi yue zh unknown""".split()
)
BPM_RANGE = (30, 300)
TIME_SIGNATURES = ("2", "3", "4", "6")
KEYSCALES = frozenset(
    f"{letter}{accidental} {mode}"
    for letter in "ABCDEFG"
    for accidental in ("", "#", "b", "♯", "♭")
    for mode in ("major", "minor")
)
MAX_CAPTION_CHARACTERS = 512
MAX_LYRICS_CHARACTERS = 4096
MAX_PROMPT_TOKENS = 256
MAX_LYRIC_TOKENS = 2048
