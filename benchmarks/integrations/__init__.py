"""The same training through each integration: `python -m benchmarks.integrations --data FOLDER`."""
