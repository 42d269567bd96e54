"""Memory and time of cached gradients beside the plain pass: `python -m benchmarks.cached`."""
