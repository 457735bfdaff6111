"""Write a model, its weights moved a little, with this environment's transformers: `python save.py MODEL OUT SEED`."""

import sys

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

source, out, seed = sys.argv[1:]
torch.manual_seed(int(seed))
model = AutoModelForImageTextToText.from_pretrained(source, dtype="auto")
with torch.no_grad():
    for weight in model.parameters():
        weight += 0.02 * torch.randn_like(weight)
model.save_pretrained(out)
AutoProcessor.from_pretrained(source).save_pretrained(out)
