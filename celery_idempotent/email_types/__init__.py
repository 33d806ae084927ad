"""What a task declares of its emails, and the key of one call."""
