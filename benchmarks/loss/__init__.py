"""Time and memory of the loss against batch size, beside its peers: `python -m benchmarks.loss`."""
