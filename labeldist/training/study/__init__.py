"""Several objectives over several seeds: the runs, what they amount to, and how sure that is."""
