"""Operations beside the workers: sweep, relay, purge, doctor, and the decisions of operators."""
