"""Evaluation: which models are asked what, by which server and harness, and where the answers are kept."""
