"""ACE-Step 1.5, the cover path: model, sampler, checkpoints and the public Python API."""

import os

# Products of the matrix library then do not depend on where their operands lie in memory. It is read at the first
# product of a process, so it is set before anything here is imported; a value that is set already stays.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
