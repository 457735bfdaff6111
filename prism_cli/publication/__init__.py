"""What `prism release` gathers from a run, and what it has run in an engine's environment."""
