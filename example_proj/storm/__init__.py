"""The demo's parts: a mail server that counts, events that come too often, and what became of them."""
