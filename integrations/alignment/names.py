"""Names that the adapter and the process in the alignment environment agree on."""

ERROR_MARK = "PRISM-ERROR "
"""Starts the log line that carries a foreseeable error, as JSON with `problem` and `fix`."""
RESULT = "result.json"
"""In the result folder: what the adapter needs to judge the weights beside it."""
DESCRIPTION = "prism_discriminator.json"
"""Makes a folder a discriminator; see `discriminator.Description`."""
