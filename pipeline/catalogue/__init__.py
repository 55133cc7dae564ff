"""What is restyled: manifests, presets, grids of settings, checks of sources."""
