"""One ACE-Step 1.5 network file: transformer, condition encoder, tokenizer, detokenizer, null condition."""

import torch
from torch import nn

from acestep.model.audio_tokenizer import AudioTokenizer, Detokenizer
from acestep.model.condition_encoder import ConditionEncoder
from acestep.model.config import ModelConfig
from acestep.model.transformer import DiffusionTransformer


class AceStepModel(nn.Module):
    """The modules of ``model.safetensors``, under the names the file uses."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.decoder = DiffusionTransformer(config)
        self.encoder = ConditionEncoder(config)
        self.tokenizer = AudioTokenizer(config)
        self.detokenizer = Detokenizer(config)
        self.null_condition_emb = nn.Parameter(torch.zeros(1, 1, config.encoder.hidden_size))

    def cast(self, dtype: torch.dtype) -> "AceStepModel":
        """Run in ``dtype``, except for what must not depend on it: time embeddings and codes stay fp32."""
        exact = (self.tokenizer, self.detokenizer, self.decoder.time_embed, self.decoder.time_embed_r)
        kept = {id(parameter) for module in exact for parameter in module.parameters()}
        for parameter in self.parameters():
            parameter.data = parameter.data.to(torch.float32 if id(parameter) in kept else dtype)
        return self
