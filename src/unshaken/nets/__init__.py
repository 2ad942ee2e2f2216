"""Networks, their batch-norm routes, and checkpoint files."""
