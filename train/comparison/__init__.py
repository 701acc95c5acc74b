"""The comparison of voices: what each costs, and what it sounds like."""
