"""Layer 2, right above nets: files of others to ours, ours to theirs, and the proof that nothing was lost."""
