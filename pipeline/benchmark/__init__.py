"""Benchmark against Hugging Face diffusers: the same weights and noise, equal outputs, interleaved timing."""
