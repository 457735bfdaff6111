"""Publishing a run's models so that a stranger can trust them.

    facts.py      what a release says about itself, one JSON document; the card is rendered from it and nothing else
    folder.py     the folder that is released: allowed files of a checkpoint, card, licence, provenance
    manifest.py   path, size and hashes of every file, and how they compare with a repository
    checks/       what is looked at before a byte moves; each check has an id, a severity and a fix
    card/         model and dataset cards
    hub/          the repository on the Hub: publish, verify, receipts

Nothing here knows a run's folder or an engine's environment: the command line gathers facts (`prism_cli/publication`)
and hands in what has to run elsewhere.
"""
