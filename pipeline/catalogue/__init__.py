"""Job inputs: manifests, presets, grids of settings, checks of sources."""
