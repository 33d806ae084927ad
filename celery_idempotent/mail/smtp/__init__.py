"""The hand-over over SMTP."""
