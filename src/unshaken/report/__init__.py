"""Tables, figures and comparisons of results. Without torch."""
