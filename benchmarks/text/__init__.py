"""What the reading of texts needs to learn, and how fast it is."""
