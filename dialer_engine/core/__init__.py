"""The pure core: decisions as values. Time and randomness are arguments; nothing here waits, logs or reads."""
