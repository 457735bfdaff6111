"""What is trained on: prompts with their images, demonstrations and responses as segments, pairs."""
