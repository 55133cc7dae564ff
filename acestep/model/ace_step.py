"""The modules of one ACE-Step 1.5 network file."""

import torch
from torch import nn

from acestep.model.audio_tokenizer import AudioTokenizer, Detokenizer
from acestep.model.condition_encoder import ConditionEncoder
from acestep.model.config import ModelConfig
from acestep.model.transformer import DiffusionTransformer


class AceStepModel(nn.Module):
    """Transformer, condition encoder, tokenizers and null condition, named as in ``model.safetensors``."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.decoder = DiffusionTransformer(config)
        self.encoder = ConditionEncoder(config)
        self.tokenizer = AudioTokenizer(config)
        self.detokenizer = Detokenizer(config)
        self.null_condition_emb = nn.Parameter(torch.zeros(1, 1, config.encoder.hidden_size))

    def cast(self, dtype: torch.dtype) -> "AceStepModel":
        """Cast to ``dtype``, except the time embeddings and the tokenizer, which stay fp32."""
        fp32_modules = (self.tokenizer, self.detokenizer, self.decoder.time_embed, self.decoder.time_embed_r)
        fp32 = {id(parameter) for module in fp32_modules for parameter in module.parameters()}
        for parameter in self.parameters():
            parameter.data = parameter.data.to(torch.float32 if id(parameter) in fp32 else dtype)
        return self
