"""The catalogue: manifest, plan, restyle, results, tracking."""

import time

IMPORTED_AT = time.time()  # before all that is imported here: what a worker's start took is told from then on
