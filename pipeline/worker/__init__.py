"""What runs in a Ray actor, and the Dataset that it is part of."""
