"""The transformers server: what it is asked is what is decoded, whoever else is asking."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from integrations.alignment.data.prompts import Encoder, Prompt
from integrations.alignment.data.seeds import derive
from integrations.alignment.rollouts.rollout import Generation, Sampling, generate
from integrations.alignment.serve import Service, read_options
from integrations.alignment.server import chat
from integrations.alignment.server.batcher import Batcher, Job, Stopping
from integrations.common.rows import Row
from integrations.errors import StageFailed

World = tuple[Path, list[Row]]
URL = "/v1/chat/completions"
LIMIT = 16


def data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def encoded(picture: Image.Image, form: str = "PNG") -> str:
    stream = io.BytesIO()
    picture.save(stream, form)
    return f"data:image/{form.lower()};base64," + base64.b64encode(stream.getvalue()).decode()


def ask(row: Row, folder: Path, **changes: Any) -> dict[str, Any]:
    """The row as a request."""
    images = [{"type": "image_url", "image_url": {"url": data_url(folder / path)}} for path in row["images"]]
    system = [{"role": "system", "content": row["system"]}] if row["system"] else []
    user = {"role": "user", "content": [*images, {"type": "text", "text": row["prompt"]}]}
    return {"model": "tiny", "messages": [*system, user], **changes}


def text(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["message"]["content"]
    return found


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "requests.jsonl"


@pytest.fixture(scope="module")
def client(checkpoint: Path, log: Path) -> Iterator[TestClient]:
    options = [f"--model={checkpoint}", "--name=tiny", "--device=cpu", f"--log={log}", "--max-body-mb=1"]
    protocol = ["--temperature=0.9", "--top-p=0.8", "--top-k=7", "--seed=3", f"--max-new-tokens={LIMIT}"]
    service = Service(read_options([*options, *protocol, "--max-batch=8"]))
    with TestClient(service.app) as client:
        assert service.batcher.ready.wait(60)
        yield client


def served(client: TestClient, requests: Sequence[dict[str, Any]]) -> list[Any]:
    """Answers to requests that are all sent at once."""
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(lambda request: client.post(URL, json=request), requests))


def test_a_request_is_encoded_as_its_row(processor: Any, encoder: Encoder, world: World) -> None:
    for row in world[1][:6]:
        said = chat.conversation(ask(row, world[0])["messages"])
        ours = Encoder(processor, world[0]).encode_turns(said.digest, said.turns, said.pictures)
        prompt = encoder.encode(row)
        assert ours.ids.tolist() == prompt.ids.tolist()
        assert np.array_equal(ours.positions, prompt.positions)
        assert torch.equal(ours.patches, prompt.patches)
        assert torch.equal(ours.grids, prompt.grids)


def test_plain_text_and_parts_are_the_same_request() -> None:
    plain = chat.conversation([{"role": "system", "content": "Be exact."}, {"role": "user", "content": "Why?"}])
    user = {"role": "user", "content": [{"type": "text", "text": "Why?"}]}
    parts = chat.conversation([{"role": "system", "content": [{"type": "text", "text": "Be exact."}]}, user])
    assert plain == parts


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_those_of_training(
    client: TestClient, policy: Any, processor: Any, world: World, temperature: float
) -> None:
    rows = world[1][:12]
    seeds = [derive("evaluation", row["id"]) for row in rows]
    options: dict[str, Any] = {"temperature": temperature, "top_p": 1.0, "top_k": 0}
    ours = generate(
        policy, processor, rows, world[0], temperature=temperature, max_new_tokens=LIMIT, seeds=seeds, batch_size=5
    )
    requests = [ask(row, world[0], seed=seed, **options) for row, seed in zip(rows, seeds, strict=True)]
    answers = served(client, requests)
    assert [text(answer) for answer in answers] == [generation.text for [generation] in ours]
    for answer, [generation] in zip(answers, ours, strict=True):
        told = answer.json()
        assert told["usage"]["completion_tokens"] == len(generation.token_ids)
        assert told["choices"][0]["finish_reason"] == ("stop" if generation.finished else "length")


def test_requests_with_other_parameters_do_not_touch_each_other(client: TestClient, world: World) -> None:
    row = world[1][4]
    kinds = [{"temperature": 0}, {"temperature": 1.5, "top_p": 1, "top_k": 0}, {"top_k": 1}, {"max_tokens": 3}, {}]
    requests = [ask(row, world[0], seed=seed, **kind) for seed in range(4) for kind in kinds]
    together = [text(answer) for answer in served(client, requests)]
    alone = [text(client.post(URL, json=request)) for request in requests]
    assert together == alone
    assert len({*together}) > len(kinds)
    by_kind = [together[index :: len(kinds)] for index in range(len(kinds))]
    assert {*by_kind[0]} == {*by_kind[2]}  # the most likely token alone, either way
    assert len({*by_kind[0]}) == 1
    assert len({*by_kind[1]}) == 4


def test_several_choices_come_from_streams_of_their_own(
    client: TestClient, policy: Any, processor: Any, world: World
) -> None:
    row = world[1][1]
    answer = client.post(URL, json=ask(row, world[0], seed=5, n=3, temperature=1, top_p=1, top_k=0)).json()
    [ours] = generate(policy, processor, [row], world[0], samples=3, max_new_tokens=LIMIT, seeds=[5])
    assert [choice["message"]["content"] for choice in answer["choices"]] == [one.text for one in ours]
    assert answer["usage"]["completion_tokens"] == sum(len(one.token_ids) for one in ours)


def test_what_a_request_leaves_out_is_the_servers(client: TestClient, world: World, log: Path) -> None:
    row = world[1][2]
    bare = client.post(URL, json=ask(row, world[0])).json()
    used = {"temperature": 0.9, "top_p": 0.8, "top_k": 7, "max_tokens": LIMIT, "seed": 3}
    explicit = client.post(URL, json=ask(row, world[0], **used)).json()
    assert bare["choices"] == explicit["choices"]
    assert bare["prism"] == {**used, "n": 1, "defaults": list(used)}
    assert explicit["prism"] == {**used, "n": 1, "defaults": []}
    lines = [json.loads(line) for line in log.read_text().splitlines()[-2:]]
    assert [line["parameters"] for line in lines] == [bare["prism"], explicit["prism"]]
    assert [line["id"] for line in lines] == [bare["id"], explicit["id"]]
    assert lines[0]["usage"].items() <= bare["usage"].items()
    assert lines[0]["prompt"] == lines[1]["prompt"]
    assert (lines[0]["images"], lines[0]["status"], lines[0]["finish_reasons"]) == (2, 200, ["length"])
    assert client.get("/v1/models").json()["data"][0]["prism"]["defaults"] == used


TURN = [{"role": "user", "content": "Why?"}]


def picture_turn(url: Any, **more: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url, **more}}]}]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("streaming", {"stream": True}, "stream"),
    ("tools", {"tools": [{"type": "function"}]}, "tools"),
    ("stop strings", {"stop": ["</answer>"]}, "stop"),
    ("log-probabilities", {"logprobs": True}, "logprobs"),
    ("a penalty", {"repetition_penalty": 1.1}, "repetition_penalty"),
    ("a schema", {"response_format": {"type": "json_object"}}, "response_format"),
    ("a misspelt field", {"topp": 0.5}, "topp"),
    ("two limits", {"max_tokens": 4, "max_completion_tokens": 5}, "max_completion_tokens"),
    ("temperature below 0", {"temperature": -0.1}, "temperature"),
    ("temperature as text", {"temperature": "1"}, "temperature"),
    ("no mass", {"top_p": 0}, "top_p"),
    ("a share above 1", {"top_p": 1.5}, "top_p"),
    ("half a seed", {"seed": 1.5}, "seed"),
    ("a truth for a number", {"n": True}, "n"),
    ("no tokens", {"max_tokens": 0}, "max_tokens"),
    ("more than the context", {"max_tokens": 2000}, "max_tokens"),
    ("no messages", {"messages": []}, "messages"),
    ("no user", {"messages": [*TURN, {"role": "assistant", "content": "So."}]}, "messages"),
    ("another role", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ("a call", {"messages": [{**TURN[0], "tool_calls": [1]}]}, "messages[0].tool_calls"),
    ("no content", {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ("sound", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
    ("a placeholder", {"messages": [{"role": "user", "content": "<|image_pad|>"}]}, "messages"),
    ("an address", {"messages": picture_turn("http://127.0.0.1:9/a.png")}, "messages[0].content[0]"),
    ("a file", {"messages": picture_turn("file:///etc/passwd")}, "messages[0].content[0]"),
    (
        "less detail",
        {"messages": picture_turn(encoded(Image.new("RGB", (32, 32))), detail="low")},
        "messages[0].content[0]",
    ),
    ("no address", {"messages": picture_turn(None)}, "messages[0].content[0]"),
    ("no base64", {"messages": picture_turn("data:image/png,abc")}, "messages[0].content[0]"),
    ("broken base64", {"messages": picture_turn("data:image/png;base64,a*b=")}, "messages[0].content[0]"),
    ("no picture", {"messages": picture_turn("data:image/png;base64,aGVsbG8=")}, "messages[0].content[0]"),
    (
        "another format",
        {"messages": picture_turn(encoded(Image.new("RGB", (32, 32)), "BMP"))},
        "messages[0].content[0]",
    ),
    (
        "half a picture",
        {"messages": picture_turn(encoded(Image.effect_noise((64, 64), 90))[:-400])},
        "messages[0].content[0]",
    ),
    ("a vast picture", {"messages": picture_turn(encoded(Image.new("1", (9000, 9000))))}, "messages[0].content[0]"),
]


@pytest.mark.parametrize(("changes", "field"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_not_supported_is_refused(client: TestClient, changes: dict[str, Any], field: str) -> None:
    answer = client.post(URL, json={"messages": TURN, **changes})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, field), error
    assert error["message"]


def test_fields_that_ask_for_nothing_are_accepted(client: TestClient) -> None:
    nothing = {"stream": False, "stop": None, "tools": [], "presence_penalty": 0.0, "logprobs": None, "user": "me"}
    plain = text(client.post(URL, json={"messages": TURN}))
    assert text(client.post(URL, json={"messages": TURN, **nothing, "top_k": None})) == plain
    assert client.post(URL, json={"messages": TURN, "top_k": -1}).json()["prism"]["top_k"] == 0


def test_the_servers_own_limit_gives_way_to_the_context(client: TestClient) -> None:
    long = [{"role": "user", "content": "digits " * 995}]
    used = client.post(URL, json={"messages": long}).json()
    assert 0 < used["prism"]["max_tokens"] == 1024 - used["usage"]["prompt_tokens"] < LIMIT
    refused = client.post(URL, json={"messages": long, "max_tokens": LIMIT})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")
    assert client.post(URL, json={"messages": [{"role": "user", "content": "digits " * 1010}]}).status_code == 400


@pytest.mark.parametrize("content", [b"no json", b"[]", b"\xff\xfe", b""])
def test_bodies_that_are_no_requests(client: TestClient, content: bytes) -> None:
    assert client.post(URL, content=content).status_code == 400


def test_other_statuses(client: TestClient, log: Path) -> None:
    assert client.post(URL, json={"messages": TURN, "model": "other"}).status_code == 404
    assert client.get("/v2/models").status_code == 404
    assert client.get(URL).status_code == 405
    assert client.get("/health").json() == {"status": "ready"}
    assert client.post(URL, content=b"x" * 2**21).status_code == 413
    assert client.post(URL, content=iter([b"x" * 2**20] * 2)).status_code == 413
    assert json.loads(log.read_text().splitlines()[-1])["error"] == "the body is larger than 1 MB"


@pytest.mark.parametrize(("mode", "form"), [("RGB", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "WEBP")])
def test_pictures_of_other_kinds(client: TestClient, mode: str, form: str) -> None:
    url = encoded(Image.new(mode, (64, 32)), form)
    answer = client.post(URL, json={"messages": picture_turn(url), "max_tokens": 2})
    assert answer.status_code == 200, answer.text
    assert chat.picture("here", url).mode == "RGB"


def test_nothing_is_answered_while_the_model_loads(checkpoint: Path) -> None:
    service, loaded = Service(read_options([f"--model={checkpoint}", "--device=cpu"])), threading.Event()
    load = service.batcher._load
    service.batcher._load = lambda: loaded.wait(60) and load()  # type: ignore[assignment, return-value]
    with TestClient(service.app) as client:
        assert client.get("/health").status_code == 503
        assert client.post(URL, json={"messages": TURN}).status_code == 503
        loaded.set()
        assert service.batcher.ready.wait(60)
        assert client.get("/health").status_code == 200
        service.batcher.stop()
        assert client.post(URL, json={"messages": TURN}).status_code == 503


def test_half_precision(checkpoint: Path, world: World) -> None:
    service = Service(read_options([f"--model={checkpoint}", "--name=tiny", "--device=cpu", "--dtype=bfloat16"]))
    with TestClient(service.app) as client:
        assert service.batcher.ready.wait(60)
        requests = [ask(row, world[0], max_tokens=4, temperature=0) for row in world[1][:6]]
        together = [text(answer) for answer in served(client, requests)]
        assert all(together)
        assert client.get("/v1/models").json()["data"][0]["prism"]["dtype"] == "bfloat16"


def test_image_limits(checkpoint: Path) -> None:
    url, tokens = encoded(Image.new("RGB", (128, 128))), []
    for limit in ([], ["--max-image-pixels=4096"]):
        service = Service(read_options([f"--model={checkpoint}", "--device=cpu", "--max-new-tokens=1", *limit]))
        with TestClient(service.app) as client:
            assert service.batcher.ready.wait(60)
            tokens.append(client.post(URL, json={"messages": picture_turn(url)}).json()["usage"]["prompt_tokens"])
    assert tokens[0] - tokens[1] == 16 - 4


@pytest.mark.parametrize("wrong", [["--temperature=-1"], ["--top-p=0"], ["--max-new-tokens=0"], ["--top-k=-3"]])
def test_wrong_defaults_are_refused_at_the_start(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(["--model=x", *wrong])


# The batches, with a model that is none.


def make_prompt(name: str) -> Prompt:
    empty: np.ndarray = np.zeros(0, np.int64)
    return Prompt(name, empty, empty, torch.zeros(0), torch.zeros(0), "")


class Echo:
    """Each response is one token, its key; all but the first of a batch end one step later."""

    def __init__(self, fits: int = 99, gate: threading.Event | None = None) -> None:
        self.fits, self.gate = fits, gate
        self.batches: list[tuple[list[str], list[int], Sampling, list[int]]] = []

    def stream(
        self, prompts: Sequence[Prompt], which: Sequence[int], sampling: Sampling, keys: Sequence[int]
    ) -> Iterator[list[tuple[int, Generation]]]:
        if len(keys) > self.fits:
            raise torch.OutOfMemoryError("no room")
        if -1 in keys:
            raise StageFailed("not finite", "")
        self.batches.append(([prompt.id for prompt in prompts], list(which), sampling, list(keys)))
        ends = [(index, Generation([key], str(key), True)) for index, key in enumerate(keys)]
        yield ends[:1]
        if self.gate:
            assert self.gate.wait(60)
        yield ends[1:]


def make_batcher(streamer: Echo, max_batch: int = 8) -> Batcher:
    return Batcher(lambda: streamer, max_batch, lambda: None)


def make_jobs(names: str, sampling: Sampling | None = None, first: int = 0) -> list[Job]:
    return [Job(make_prompt(name), sampling or Sampling(), first + index) for index, name in enumerate(names)]


def test_what_waits_is_decoded_together_and_by_sampling() -> None:
    streamer = Echo()
    batcher = make_batcher(streamer, max_batch=4)
    warm, cold = Sampling(1.0), Sampling(0.0)
    jobs = [*make_jobs("aba", warm), *make_jobs("cd", cold, 10), *make_jobs("efg", warm, 20)]
    batcher.submit(jobs)
    batcher.start()
    assert [job.done.result(60).token_ids for job in jobs] == [[job.key] for job in jobs]
    batcher.stop()
    assert streamer.batches == [
        (["a", "b", "e"], [0, 0, 1, 2], warm, [0, 2, 1, 20]),  # one prompt is read once
        (["c", "d"], [0, 1], cold, [10, 11]),
        (["f", "g"], [0, 1], warm, [21, 22]),
    ]


def test_a_batch_waits_for_requests_on_their_way() -> None:
    streamer = Echo()
    batcher = make_batcher(streamer)
    batcher.start()
    batcher.expect(1)
    [early], [late] = make_jobs("a"), make_jobs("b", first=1)
    batcher.submit([early])
    assert not early.done.done()
    batcher.submit([late])
    batcher.expect(-1)
    assert early.done.result(60).token_ids == [0]
    assert late.done.result(60).token_ids == [1]
    batcher.stop()
    assert len(streamer.batches) == 1


def test_a_response_is_handed_over_when_it_ends() -> None:
    streamer = Echo(gate=threading.Event())
    batcher = make_batcher(streamer)
    jobs = make_jobs("ab")
    batcher.submit(jobs)
    batcher.start()
    assert jobs[0].done.result(60).token_ids == [0]
    assert not jobs[1].done.done()
    streamer.gate.set()  # type: ignore[union-attr]
    assert jobs[1].done.result(60).token_ids == [1]
    batcher.stop()


def test_stopping_gives_up_what_is_open() -> None:
    streamer = Echo(gate=threading.Event())
    batcher = make_batcher(streamer, max_batch=2)
    jobs = make_jobs("abcd")
    batcher.submit(jobs)
    batcher.start()
    jobs[0].done.result(60)
    batcher.stop()
    streamer.gate.set()  # type: ignore[union-attr]
    batcher.join(60)
    assert [type(job.done.exception(60)) for job in jobs[2:]] == [Stopping, Stopping]
    with pytest.raises(Stopping):
        batcher.submit(make_jobs("e"))


def test_an_asker_who_has_gone_disturbs_nobody() -> None:
    batcher = make_batcher(Echo())
    gone, stays = make_jobs("ab")
    assert gone.done.cancel()
    batcher.submit([gone, stays])
    batcher.start()
    assert stays.done.result(60).token_ids == [1]
    batcher.stop()


def test_what_does_not_fit_is_decoded_in_parts() -> None:
    streamer = Echo(fits=2)
    batcher = make_batcher(streamer)
    jobs = make_jobs("abcdefg")
    batcher.submit(jobs)
    batcher.start()
    assert [job.done.result(60).token_ids for job in jobs] == [[index] for index in range(7)]
    assert max(len(batch[3]) for batch in streamer.batches) == 2
    streamer.fits = 0
    [vast] = make_jobs("h")
    batcher.submit([vast])
    with pytest.raises(StageFailed, match="does not fit"):
        vast.done.result(60)
    batcher.stop()


def test_a_failure_reaches_its_askers_and_no_others() -> None:
    batcher = make_batcher(Echo())
    wrong, right = [*make_jobs("a", Sampling(0.5)), *make_jobs("b", Sampling(0.5), -1)], make_jobs("c")
    batcher.submit([*wrong, *right])
    batcher.start()
    for job in wrong:
        with pytest.raises(StageFailed, match="not finite"):
            job.done.result(60)
    assert right[0].done.result(60).finished
    batcher.stop()


def test_a_model_that_does_not_load_ends_the_server() -> None:
    ended = threading.Event()

    def load() -> Echo:
        raise ValueError("no model")

    batcher = Batcher(load, 8, ended.set)
    batcher.start()
    assert ended.wait(60)
    assert str(batcher.failure) == "no model"
    assert not batcher.ready.is_set()
