"""From files to networks: layouts, adapters, the hub, the built-in model."""
