"""Recipe fields of stage 2: the discriminator's warm-up and the alignment game.

Defaults are those of the embedded digits world, where every figure was settled on the validation pool; what a real
checkpoint needs is set in its own recipe.
"""

from integrations.alignment.settings.align import AlignSettings
from integrations.alignment.settings.discriminator import DiscriminatorSettings
from integrations.alignment.settings.precision import PrecisionSettings
from integrations.alignment.settings.rollout import RolloutSettings

__all__ = ["AlignSettings", "DiscriminatorSettings", "PrecisionSettings", "RolloutSettings"]
