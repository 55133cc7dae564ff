"""ACE-Step 1.5, the cover path: model, sampler, checkpoints and the public Python API."""
