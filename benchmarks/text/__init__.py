"""Programs that learn what the reading of texts needs."""
