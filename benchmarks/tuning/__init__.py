"""What tuning gains, and what a kill costs it."""
