"""Captions of the twelve genres in many phrasings: names, instruments, moods, and words that say nothing."""

import random

WORDS: dict[str, tuple[str, str, str]] = {  # names, instruments, moods; separated by commas
    "country": (
        "country, Country, classic country, bluegrass country, traditional country",
        "banjo rolls, twangy acoustic guitar, fiddle, pedal steel guitar, upright bass, brushed train beat, "
        "boom-chick guitar, banjo, steel-string guitar strums",
        "cheerful, down-home, sunny, foot-stomping, warm and friendly",
    ),
    "heavy metal": (
        "heavy metal, Heavy metal, metal, thrash metal, classic heavy metal",
        "distorted electric guitars, distorted rhythm guitars, tight power chord riffs, double bass drums, "
        "lead guitar carrying the melody, driving electric bass, aggressive riffs, crash cymbals, power chords, "
        "heavily distorted electric guitars, palm-muted guitars",
        "aggressive and triumphant, dark and intense, high energy, dark atmosphere, powerful",
    ),
    "pop": (
        "pop, Pop, modern pop, bright synth pop, radio pop",
        "bright piano chords, synth lead, warm pads, punchy drums, bass guitar, catchy hook, "
        "steady eighth-note bass",
        "uplifting, catchy, polished, bright and happy, feel-good",
    ),
    "jazz": (
        "jazz, Jazz, smooth jazz, swing jazz, late-night jazz",
        "upright bass, walking bass, brushed drums, mellow saxophone lead, rich piano voicings, "
        "warm piano chords, ride cymbal swing, saxophone solo, muted trumpet, vibraphone",
        "relaxed late-night mood, swing feel, slow swing, lounge mood, sophisticated",
    ),
    "rock": (
        "rock, Rock, classic rock, indie rock, hard rock",
        "electric guitars, overdriven guitar, driving drums, bass guitar, guitar riffs, Hammond organ, "
        "backbeat drums, guitar lead",
        "energetic, raw, confident, anthemic, driving",
    ),
    "electronic": (
        "electronic dance music, Electronic, EDM, synthwave, techno, house music, electronic",
        "analogue synth leads, deep sub bass, four-on-the-floor kick, sidechained pads, analogue arpeggios, "
        "synth arpeggios, deep synth bass, soaring lead, offbeat bass, claps and open hi-hats",
        "bright modern production, nostalgic neon mood, club energy, hypnotic, wide polished production",
    ),
    "classical": (
        "classical, Classical, classical chamber music, classical piano, string quartet",
        "solo piano, violin, viola and cello, Alberti bass, string quartet, grand piano, chamber strings",
        "elegant, refined, delicate, concert hall, expressive",
    ),
    "hip-hop": (
        "hip-hop, Hip-hop, trap, boom bap hip-hop, rap beat",
        "booming 808 bass, heavy 808 bass, crisp rolling hi-hats, crisp trap hi-hats, snappy claps, punchy snare, "
        "dark synth bells on the melody, bells, trap beat, chopped samples",
        "laid-back groove, confident mood, confident and cinematic, dark, polished wide modern production",
    ),
    "folk": (
        "folk, Folk, Celtic folk, traditional folk, campfire folk",
        "fingerpicked nylon guitar, flute, harmonica, recorder, accordion, nylon guitar arpeggios, "
        "light tambourine, wooden flute melody",
        "gentle, pastoral, rustic, nostalgic, intimate",
    ),
    "r&b": (
        "R&B, r&b, contemporary R&B, soul R&B, neo soul",
        "warm electric piano chords, electric piano, smooth round bass guitar, warm bass, soft finger snaps, "
        "laid-back drum groove, silky synth lead on the melody, lush pads, slow groove, alto saxophone",
        "intimate and romantic mood, clean lush late-night production, intimate and polished, soulful, smooth",
    ),
    "acoustic": (
        "acoustic, Acoustic, unplugged acoustic, acoustic guitar duo, singer-songwriter acoustic",
        "strummed steel-string guitar, acoustic guitar, acoustic guitar melody, no drums, steel-string strumming, "
        "guitar picking, two acoustic guitars",
        "intimate, warm, organic, simple and honest, close room sound",
    ),
    "orchestral": (
        "orchestral, Orchestral, cinematic orchestra, symphonic, film score",
        "sweeping strings, French horns, woodwind countermelodies, timpani, brass section, full orchestra, "
        "string section melody, cymbal swells, trumpets",
        "wide dynamics, emotional build, epic, majestic, grand",
    ),
}
PRODUCTION = (
    "loud modern studio production, instrumental, clean studio sound, live recording, wide stereo, slow tempo, "
    "mid tempo, fast tempo, great groove, layered harmonies"
).split(", ")
NEUTRAL = (  # whatever the style: what a caption says beyond the words above must not matter
    "cover, version, song, track, music, a new take on an old tune, great, beautiful, my favourite, "
    "for the evening, summer 2024, take 3, with feeling, remastered, high quality, best of, a tribute, "
    "soulful vocals, river, window, blue, seven, quickly, morning light, Amsterdam, please"
).split(", ")
SYLLABLES = "ka lo mi ren tas ver dol pim shu nar el ost quib fra zen".split()


def caption(genre: str, draw: random.Random) -> str:
    """A caption of a genre.

    Raises:
        KeyError: there is no such genre.
    """
    names, instruments, moods = (words.split(", ") for words in WORDS[genre])
    name = draw.choice(names)
    played = draw.sample(instruments, draw.randint(0, 5))
    mood = draw.sample(moods, draw.randint(0, 2))
    more = draw.sample(PRODUCTION, int(draw.random() < 0.25)) + _noise(draw)
    form = draw.random()
    if not played and not mood:
        plain = name if form < 0.6 else f"a {name} song" if form < 0.8 else f"{name} version of the song"
        return ", ".join([plain, *more])
    if form < 0.45:
        return ", ".join([name, *played, *mood, *more])
    if form < 0.85 and played:
        comma = "," if draw.random() < 0.5 and len(played) > 2 else ""
        listed = f"{', '.join(played[:-1])}{comma} and {played[-1]}" if len(played) > 1 else played[0]
        return ", ".join([f"{name} with {listed}", *mood, *more])
    words = [*played, *mood, *more]
    draw.shuffle(words)
    return ", ".join([*words, name]) if draw.random() < 0.5 else f"{name}: {', '.join(words)}"


def _noise(draw: random.Random) -> list[str]:
    """Now and then words that no style goes with."""
    if draw.random() > 0.15:
        return []
    made_up = "".join(draw.choices(SYLLABLES, k=draw.randint(2, 3)))
    return draw.sample([*NEUTRAL, made_up], draw.randint(1, 2))
