"""Layer 7, without torch unless a command line is to be rebuilt: results and published numbers to a static site."""
