"""Few labels a class, beside SetFit: `python -m benchmarks.few_labels`."""
