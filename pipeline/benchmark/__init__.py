"""Ours against Hugging Face diffusers: the same weights, the same noise, equal outputs, interleaved times."""
