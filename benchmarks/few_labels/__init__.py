"""Few labels per class, beside SetFit: `python -m benchmarks.few_labels`."""
