"""Cut long recordings at silence, and join the texts that a recogniser found for them."""
