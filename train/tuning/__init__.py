"""Search for the options of a run: by trials (Optuna), or by a population of runs that learn from one another."""
