"""Names that the adapter and the process in the alignment environment agree on."""

RESULT = "result.json"
"""In the result folder: what the adapter needs to judge the weights beside it."""
DESCRIPTION = "prism_discriminator.json"
"""Makes a folder a discriminator; see `discriminator.Description`."""
POLICY_WEIGHTS = "policy/model.safetensors"
"""In a checkpoint: the policy as it was after that step."""
