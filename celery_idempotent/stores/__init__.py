"""Where entries are kept. Stores offer the primitives of `core.store` and decide nothing."""
