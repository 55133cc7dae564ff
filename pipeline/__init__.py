"""The catalogue: manifest, plan, restyle, results, tracking."""
