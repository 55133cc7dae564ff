"""Load checkpoints: layouts, adapters, the hub, the built-in model."""
