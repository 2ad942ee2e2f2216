"""Methods of training: one paper, one file."""
