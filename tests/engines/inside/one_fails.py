"""One of two processes meets an error; the other waits for it. Run by torchrun."""

from __future__ import annotations

import sys

from integrations.alignment.train import conclude
from integrations.alignment.training.world import World, open_world
from integrations.errors import BadInput


def work(world: World) -> None:
    if world.rank == 1:
        raise BadInput("the second process found a broken image", "repair it")
    world.wait()


here = open_world("cpu")
sys.exit(conclude(lambda: work(here), here))
