"""The training loop: batches, optimisers, checkpoints, coresets, cheaper steps."""
