"""Warm-up and game: what each player learns from, and what is measured."""
