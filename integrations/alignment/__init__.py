"""Stage 2, PRISM alignment: a mixture-of-experts discriminator and the adversarial game, in plain torch.

`settings`, `adapter`, `names` and `serving` run in prism's own process and import neither torch nor transformers.
Everything else runs in the alignment environment:

    train.py, job.py    the process of a stage, `python -m integrations.alignment.train --config FILE`
    data/               prompts with images, demonstrations and responses as segments, pairs
    forward/            passes through a Qwen3-VL: a prompt once for all its responses
    discriminators/     how a discriminator is made, reads, routes, scores and lies on disk
    game/               warm-up and game: losses, advantages, control, what is measured
    rollouts/           the engines that sample the policy
    training/           optimizer, number formats, adapters, processes, checkpoints, results
    serve.py, server/   an OpenAI-compatible server over transformers
    check_model.py, inspection.py    does a model folder answer; what does the discriminator read and give
    release_probe.py    does a release load, read an image, and answer as it did
"""
