"""Compare our count of visual tokens with transformers' own rule over many image sizes: `python image_sizes.py`."""

import random

from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from integrations.common.image_tokens import ImagePolicy, visual_tokens

random.seed(0)
for _ in range(20_000):
    width, height = random.randint(28, 3000), random.randint(28, 3000)
    if max(width, height) > 200 * min(width, height):
        continue
    least = random.choice([1024, 4096, 65536])
    most = random.choice([9 * 1024, 1024 * 1024, 16777216])
    tall, wide = smart_resize(height, width, 32, min(least, most), most)
    policy = ImagePolicy(16, 2, min(least, most), most)
    assert visual_tokens(width, height, policy) == tall * wide // 1024, (width, height, policy)
