"""What trains a model, of any kind: optimizer, formats, processes, checkpoints, results."""
