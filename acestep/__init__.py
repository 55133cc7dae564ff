"""ACE-Step 1.5, cover generation: model, sampler, checkpoints and the public Python API."""

import os

# Makes MKL's results independent of memory alignment. MKL reads it at its first call, so it is set before torch is
# imported.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
