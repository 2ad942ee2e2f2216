"""Side by side: the library against plain, literal forms of the same mathematics, as ratios within one run."""
