"""Constants of the ACE-Step 1.5 models that no configuration file states."""

SAMPLE_RATE = 48_000  # Hz, of the autoencoder's waveforms
LATENT_RATE = 25  # Hz, latent frames per second
HOP = SAMPLE_RATE // LATENT_RATE  # 1920 samples per latent frame
MIN_LATENT_FRAMES = 128  # shorter sources are padded with the silence latent: 5.12 s
MIN_WORK_S = MIN_LATENT_FRAMES / LATENT_RATE  # shorter sources cost the same
MAX_SOURCE_SECONDS = 600.0  # the models were trained on up to ten minutes
MAX_TURBO_STEPS = 20
FSQ_CODES = 64_000  # codes of one 5 Hz window: 8 x 8 x 8 x 5 x 5 x 5 levels
COLLAPSED_SHARE = 0.1  # of the source's RMS (-20 dB); a cover below it has lost its energy
# -80 dBFS, three steps of a 16-bit file. Normalizing a cover with a lower peak would amplify the decoder's
# rounding noise. The quietest known covers peak 50 dB above it.
SILENT_PEAK = 1e-4
MAX_FILE_BYTES = 4 << 30  # ten minutes of 384 kHz stereo float are 1.8 GB
SEED_LIMIT = 2**32  # exclusive
RANDOM_SEED = -1  # draws a random seed

UNDERSTANDING_SEED = 0  # seed of the language model: the same musical facts for every seed of a track

# Increased whenever the same request yields different samples than before; part of every item's identity.
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


def default_dtype(on_gpu: bool) -> str:
    """Name of the network's dtype unless one is given."""
    return "bfloat16" if on_gpu else "float32"
