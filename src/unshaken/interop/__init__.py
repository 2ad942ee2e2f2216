"""Layer 3: files of others to ours, ours to theirs, and the proof that nothing was lost."""
