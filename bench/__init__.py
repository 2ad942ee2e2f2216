"""Side by side: what the library does against plain, literal forms of the same mathematics, as ratios within one run."""
