"""Parts of the OpenAI-compatible server (`serve.py`)."""
