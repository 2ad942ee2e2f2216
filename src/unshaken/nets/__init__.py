"""Networks, batch-norm routes, and checkpoint files."""
