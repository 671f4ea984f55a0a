"""Records on disk: of runs, and of timings."""
