"""What runs or is decided beside the workers."""
