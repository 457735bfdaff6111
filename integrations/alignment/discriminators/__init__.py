"""The discriminator: how it is made, reads, routes, scores, and lies on disk."""
