"""An engine's own count of visual tokens: `python image_policy.py ENGINE MODEL POOL OUT [rendered configuration]`.

Writes {row id: [visual tokens of the prompt, its length in tokens]}. ENGINE is `llamafactory`, `verl`, `alignment` or
`server`; for `lmms_eval` the messages are written instead that it would send, for `server` to read as `<OUT>.messages`.
"""

import json
import sys
from pathlib import Path


def rows(pool):
    return [json.loads(line) for line in pool.read_text().splitlines()]


def counted(ids, image_token):
    ids = [int(token) for token in ids]
    return [ids.count(image_token), len(ids)]


def llamafactory(model, pool, out, config):
    import yaml
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, *_ = get_train_args(yaml.safe_load(config.read_text()))
    loaded = load_tokenizer(model_args)
    tokenizer, processor = loaded["tokenizer"], loaded["processor"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    result = {}
    for row in rows(pool):
        turns = [{"role": "user", "content": "<image>" * len(row["images"]) + row["prompt"]}]
        turns.append({"role": "assistant", "content": "said"})
        images = [str(pool.parent / image) for image in row["images"]]
        turns = template.mm_plugin.process_messages(turns, images, [], [], processor)
        ids, _ = template.encode_oneturn(tokenizer, turns)
        result[row["id"]] = counted(ids, tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    return result


def verl(model, pool, out, config):
    import datasets
    from omegaconf import OmegaConf
    from verl.utils import hf_processor, hf_tokenizer
    from verl.utils.dataset.rl_dataset import RLHFDataset, build_multimodal_processor_inputs

    from integrations.verl.check_prompts import counter, looked_at

    datasets.config.HF_DATASETS_CACHE = str(out.with_suffix(".datasets"))
    rendered = OmegaConf.load(config)
    parquet = Path(rendered.data.train_files)
    told = {prompt.id: prompt.tokens for prompt in looked_at(parquet, counter(model))}
    processor = hf_processor(str(model))
    no_prompt_to_validate(parquet, rendered.data, hf_tokenizer(str(model)), processor)
    rendered.data.filter_overlong_prompts = False
    dataset = RLHFDataset(str(parquet), hf_tokenizer(str(model)), rendered.data, processor)
    result = {}
    for index in range(len(dataset)):
        doc = dataset.dataframe[index]
        turns = dataset._build_messages(doc, "prompt")
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        images, videos, _ = dataset._process_multi_modal_info(turns, dataset.image_patch_size, dataset.config)
        ids = build_multimodal_processor_inputs(processor, text=[text], images=images, videos=videos)["input_ids"][0]
        name = doc["extra_info"]["id"]
        result[name] = counted(ids, processor.image_token_id)
        assert told[name] == result[name][1], (name, told[name], result[name])
    sizes_agree(processor)
    return result


def no_prompt_to_validate(parquet, data, tokenizer, processor):
    """The one prompt that verl takes for validation may be too long: its loader must stand without."""
    from omegaconf import OmegaConf
    from torchdata.stateful_dataloader import StatefulDataLoader
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

    short = OmegaConf.merge(data, {"max_prompt_length": 1})
    dataset = RLHFDataset(str(parquet), tokenizer, short, processor, max_samples=data.val_max_samples)
    assert len(dataset) == 0
    size = data.val_batch_size or len(dataset)
    assert list(StatefulDataLoader(dataset, size, collate_fn=collate_fn)) == []


def sizes_agree(processor):
    """Over sizes of all kinds: those that prism lets pass become as many tokens as it says."""
    import random

    from PIL import Image
    from qwen_vl_utils import fetch_image

    from integrations.common.image_tokens import policy_of, visual_tokens
    from integrations.verl.prompts import size_problem

    own = processor.image_processor
    policy = policy_of({"size": dict(own.size), "patch_size": own.patch_size, "merge_size": own.merge_size})
    limits = {"min_pixels": policy.min_pixels, "max_pixels": policy.max_pixels}
    rng = random.Random(0)
    passed = stopped = 0
    for _ in range(400):
        width, height = (round(700 ** rng.uniform(0.3, 1)) for _ in range(2))
        if size_problem(width, height, policy):
            stopped += 1
            continue
        image = fetch_image({"image": Image.new("RGB", (width, height)), **limits}, image_patch_size=policy.patch_size)
        grid = own(images=[image], return_tensors="np")["image_grid_thw"]
        assert grid.prod() // policy.merge_size**2 == visual_tokens(width, height, policy), (width, height)
        passed += 1
    assert passed > 200, passed
    assert stopped > 5, stopped


def alignment(model, pool, out, config):
    from integrations.alignment.data.prompts import Encoder
    from integrations.alignment.forward.model import load_processor

    encoder = Encoder(load_processor(model), pool.parent)
    return {row["id"]: counted(encoder.encode(row).ids, encoder.image_id) for row in rows(pool)}


def lmms_eval(model, pool, out, config):
    from lmms_eval.protocol import ChatMessages
    from PIL import Image

    result = {}
    for row in rows(pool):
        content = [{"type": "image", "url": Image.open(pool.parent / image)} for image in row["images"]]
        content.append({"type": "text", "text": row["prompt"]})
        turns = ChatMessages(messages=[{"role": "user", "content": content}])
        result[row["id"]] = turns.to_openai_messages()
    return result


def server(model, pool, out, config):
    from integrations.alignment.serve import Service, read_options

    service = Service(read_options([f"--model={model}", "--device=cpu", "--max-new-tokens=1"]))
    service._load()
    service.batcher.ready.set()
    result = {}
    for name, messages in json.loads(out.with_suffix(".messages").read_text()).items():
        _, jobs = service._prepare(json.dumps({"messages": messages}).encode())
        result[name] = counted(jobs[0].prompt.ids, service.encoder.image_id)
    return result


if __name__ == "__main__":
    engine, model, pool, out = sys.argv[1], *map(Path, sys.argv[2:5])
    result = globals()[engine](model, pool, out, Path(sys.argv[5]) if len(sys.argv) > 5 else None)
    out.write_text(json.dumps(result))
