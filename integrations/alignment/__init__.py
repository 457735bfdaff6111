"""Stage 2, PRISM alignment: a mixture-of-experts discriminator and the adversarial game, in plain torch.

`settings` and `adapter` run in prism's own process and import neither torch nor transformers. Everything else runs in
the alignment environment, started as `python -m integrations.alignment.train --config FILE`.
"""
