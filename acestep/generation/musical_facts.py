"""Complete a request's musical facts with the language model."""

from dataclasses import replace

from acestep.constants import UNDERSTANDING_SEED
from acestep.generation.conditions import TrackConditions
from acestep.generation.params import GenerationParams
from acestep.language.language_model import LanguageModel
from acestep.language.understanding import fill_prompt


def with_musical_facts(
    language_model: LanguageModel, conditions: TrackConditions, params: GenerationParams
) -> tuple[TrackConditions, list[str]]:
    """Fill missing musical facts of the prompt with the language model's answer; also returns notes."""
    answer = language_model.understand(
        conditions.source_codes()[0].tolist(),
        seed=UNDERSTANDING_SEED,
        temperature=params.lm_temperature,
        top_k=params.lm_top_k,
        top_p=params.lm_top_p,
        constrained=params.use_constrained_decoding,
    )
    prompt, notes = fill_prompt(conditions.prompt, answer, params.use_cot_metas, params.use_cot_language)
    return replace(conditions, prompt=prompt), notes
