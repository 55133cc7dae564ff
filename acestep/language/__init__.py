"""Text: prompts, the text encoder, the 5 Hz language model."""
