"""What the integrations have in common: version checks, matrices and weights of a loss, its state in checkpoints."""
