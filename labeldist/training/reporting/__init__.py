"""Reports of what lies on disk: a table of predictions, a run, an evaluation, a comparison."""
