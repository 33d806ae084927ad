"""Intentions kept in the caller's transaction until the broker has them."""
