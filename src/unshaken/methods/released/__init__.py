"""Forms of the authors' published code, where it differs from their paper."""
