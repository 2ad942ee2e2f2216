"""Losses: scalars from embeddings and logits."""
