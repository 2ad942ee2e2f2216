"""Layer 1: scalars from embeddings and logits."""
