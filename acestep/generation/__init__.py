"""One request or one track through the model."""
