"""Import of others' checkpoints, export for other libraries, and fingerprints of outputs."""
