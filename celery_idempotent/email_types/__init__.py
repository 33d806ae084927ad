"""Email types: their options, and the key of a call."""
