"""The loss inside other people's training loops: one module a framework, each behind its own extra."""
