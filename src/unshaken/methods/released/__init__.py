"""What the authors' published code computes where it differs from their paper."""
