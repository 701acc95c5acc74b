"""How well long recordings are cut."""
