"""Other people's checkpoints into ours, ours into theirs, and the proof that outputs are equal."""
