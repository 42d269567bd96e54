"""Reports of what lies on disk: a table of predictions, a run, an evaluation, a comparison."""

REPORT = "report.html"
"""Name of the page in a folder."""
