"""ACE-Step 1.5, the cover path: model, sampler, checkpoints and the public Python API."""

import os

# The mode of the matrix library in which bits do not depend on the number of threads. It is read at the first
# product of a process, so it is set before anything here is imported; a value that is set already stays.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
