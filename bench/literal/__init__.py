"""Plain, literal forms of what the published code does, written here from its description: the baselines."""
