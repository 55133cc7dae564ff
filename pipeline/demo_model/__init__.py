"""The built-in model: songs to train on, training, export in the published layout, evaluation."""
