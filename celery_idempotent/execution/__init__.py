"""One call of an idempotent task or function, whatever its queue: claim, run, record."""
