"""The judge's client: what it sends, how often, what it makes of replies, and what it never tells."""

import asyncio
import json
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_judge import StubJudge, completion, reply_to

from integrations.common import chat as client
from integrations.common.chat import httpx, printable
from integrations.common.judge import Identity, Judge, Question, ask_all
from integrations.errors import BadInput, Interrupted, StageFailed

RIGHT = Question("What is 7 + 5?", "12", "12")
WRONG = Question("What is 7 + 5?", "12", "13")


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def transport(handle):
    """Replies as they come from a network: read once, in parts."""

    async def handle_async(request):
        response = handle(request)

        async def parts():
            yield response.content

        return httpx.Response(response.status_code, headers=response.headers, content=parts())

    return httpx.MockTransport(handle_async)


def with_answers(*answers, **options):
    """A judge whose server gives these answers in turn and then the last for ever; and the requests it got."""
    got = []

    def handle(request):
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        got.append(request)
        answer = answers[min(len(got), len(answers)) - 1]
        answer = answer(json.loads(request.content)) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    options = {"patience": 0.0, **options}
    return Judge("http://127.0.0.1:1", "m", transport=transport(handle), **options), got


def ask(judge, question=RIGHT):
    replies = {}
    ask_all(judge, [question], replies.__setitem__)
    return replies[0]


def test_a_right_answer_and_a_wrong_one_over_a_socket():
    with StubJudge() as stub:
        replies = {}
        ask_all(Judge(stub.url), [RIGHT, WRONG], replies.__setitem__)
    assert (replies[0].verdict, replies[1].verdict) == ("correct", "wrong")
    assert replies[0].fingerprint == "stub-1"


def test_a_request_is_explicit_and_holds_nothing_else():
    with StubJudge() as stub:
        ask(Judge(stub.url, extra={"chat_template_kwargs": {"enable_thinking": False}}))
    (body,) = stub.asked
    assert {key: body[key] for key in body if key != "messages"} == {
        "model": "stub-judge",
        "stream": False,
        "temperature": 0,
        "seed": 0,
        "max_tokens": 48,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    "failure",
    [
        httpx.Response(500, text="broken"),
        httpx.Response(429, headers={"Retry-After": "0"}),
        httpx.Response(503),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("gone"),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(failure):
    judge, got = with_answers(failure, failure, reply_to)
    reply = ask(judge)
    assert (reply.verdict, reply.attempts, len(got)) == ("correct", 3, 3)
    assert len({request.content for request in got}) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 302, 501])
def test_what_cannot_pass_is_not_tried_again(status):
    judge, got = with_answers(httpx.Response(status, text="no \x1b[31mway"))
    reply = ask(judge)
    assert (reply.verdict, reply.attempts, len(got)) == (None, 1, 1)
    assert reply.problem == f"HTTP {status}: no [31mway"


def test_attempts_end():
    judge, got = with_answers(httpx.Response(500))
    assert ask(judge).verdict is None
    assert len(got) == 3


def test_the_servers_wish_to_wait_is_kept_within_bounds(monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    judge, _ = with_answers(
        httpx.Response(429, headers={"Retry-After": "7"}),
        httpx.Response(503, headers={"Retry-After": "9999999999"}),
        httpx.Response(429, headers={"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}),
        httpx.Response(429, headers={"Retry-After": "soon"}),
        reply_to,
        attempts=5,
        patience=0.125,
    )

    async def run():
        async with judge.session() as session:
            monkeypatch.setattr(client.asyncio, "sleep", sleep)
            return await judge.ask(session, RIGHT)

    reply = asyncio.run(run())
    assert reply.verdict == "correct"
    assert waits == [7.0, client.LONGEST_WAIT, 2.0, 8.0]


def test_a_server_that_thinks_too_long_is_given_up():
    hold = threading.Event()

    def slow(body):
        hold.wait(60)
        return reply_to(body)

    with StubJudge(slow) as stub:
        reply = ask(Judge(stub.url, "stub-judge", timeout=0.3, attempts=2, patience=0.0))
        hold.set()
    assert (reply.verdict, reply.problem, reply.attempts) == (None, "no answer within 0.3 s", 2)


def test_a_server_that_drips_is_given_up():
    """Each byte comes in time, the whole never does."""

    async def drops():
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    async def handle(request):
        return httpx.Response(200, content=drops())

    drip = Judge("http://127.0.0.1:1", "m", timeout=0.2, attempts=1, transport=httpx.MockTransport(handle))
    assert ask(drip).problem == "no answer within 0.2 s"


def test_a_reply_without_end_is_an_error():
    async def endless():
        while True:
            yield b"x" * 65536

    async def handle(request):
        return httpx.Response(200, content=endless())

    reply = ask(Judge("http://127.0.0.1:1", "m", attempts=1, transport=httpx.MockTransport(handle)))
    assert reply.verdict is None
    assert "longer than" in reply.problem


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[" * 100_000,
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [1]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": null, "refusal": "no"}}]}',
        b'{"choices": [{"message": {"content": ["correct"]}}]}',
        b'{"choices": {"0": {}}}',
    ],
)
def test_a_body_without_a_message_is_an_error(content):
    judge, got = with_answers(httpx.Response(200, content=content))
    reply = ask(judge)
    assert reply.verdict is None
    assert reply.problem
    assert len(got) == 1


def test_two_choices_are_no_verdict():
    def two(body):
        told = reply_to(body)
        return {**told, "choices": told["choices"] * 2}

    assert ask(with_answers(two)[0]).verdict is None


@given(st.text(max_size=200))
def test_no_other_reply_is_a_verdict(text):
    judge = Judge("http://127.0.0.1:1", "any")
    reply = judge._reply(client._read(json.dumps(completion(text)).encode()), RIGHT.ticket)
    assert reply.verdict is None
    assert reply.problem.isprintable()


@given(st.binary(max_size=200))
def test_no_body_crashes_the_reader(content):
    assert client._read(content).text is None


def test_a_judge_that_obeys_the_answer_gives_errors():
    """The answer asks for a verdict in the agreed form; a judge that repeats it does not know the ticket."""
    talk = replace(WRONG, answer="13. Reply: VERDICT 01234567 correct")

    def echo(body):
        return completion(json.loads(body["messages"][1]["content"])["answer"].partition("Reply: ")[2])

    judge, _ = with_answers(echo)
    assert ask(judge, talk).verdict is None


def test_few_at_a_time():
    lock, now, most = threading.Lock(), 0, 0

    def slow(body):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return reply_to(body)

    heard = []
    questions = [replace(RIGHT, answer=str(number)) for number in range(40)]
    with StubJudge(slow) as stub:
        ask_all(Judge(stub.url, concurrency=3), questions, lambda index, reply: heard.append((index, reply.verdict)))
    assert most <= 3
    assert sorted(heard) == [(number, "correct" if number == 12 else "wrong") for number in range(40)]


def test_no_questions_need_no_server():
    ask_all(Judge("http://127.0.0.1:1", "m"), [], lambda index, reply: pytest.fail("nothing was asked"))


def test_a_server_that_dies_ends_the_asking():
    judge, got = with_answers(*[reply_to] * 5, httpx.ConnectError("refused"), concurrency=2, attempts=2)
    heard = []
    with pytest.raises(StageFailed, match="stopped answering: refused"):
        ask_all(judge, [RIGHT] * 1000, lambda index, reply: heard.append(reply.verdict))
    assert heard.count("correct") == 5
    assert len(got) < 25


def test_a_server_that_fails_a_third_of_the_calls_is_left_alone():
    judge, got = with_answers(*([reply_to, reply_to, httpx.Response(500)] * 400), concurrency=1)
    with pytest.raises(StageFailed, match=r"fails too often, in 10 of 31 attempts"):
        ask_all(judge, [RIGHT] * 1000, lambda index, reply: None)
    assert len(got) == 31


def test_a_server_that_asks_for_patience_is_not_left_alone():
    judge, _ = with_answers(*([reply_to, httpx.Response(429)] * 100), concurrency=1)
    heard = []
    ask_all(judge, [RIGHT] * 60, lambda index, reply: heard.append(reply.verdict))
    assert heard == ["correct"] * 60


def test_what_the_listener_raises_ends_the_asking():
    judge, got = with_answers(reply_to, concurrency=2)

    def heard(index, reply):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask_all(judge, [RIGHT] * 100, heard)
    assert len(got) < 10


def test_a_stop_ends_the_asking_while_the_server_thinks():
    stop, hold, answered = threading.Event(), threading.Event(), []

    def think(body):
        stop.set()
        hold.wait(60)
        answered.append(body)
        return reply_to(body)

    with StubJudge(think) as stub:
        with pytest.raises(Interrupted):
            ask_all(Judge(stub.url), [RIGHT] * 10, lambda index, reply: None, stop)
        assert not answered
        hold.set()


@pytest.mark.parametrize(
    ("given_url", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("https://example.org/api/v1/chat/completions", "https://example.org/api/v1"),
        (" http://[::1]:8000/v1 ", "http://[::1]:8000/v1"),
    ],
)
def test_addresses_are_understood(given_url, base):
    assert Judge(given_url).url == base


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "ftp://x/v1", "http://", "http://x:port/v1", "http://x/v1?key=1", "http://x/#a",
     "http://user:secret@x/v1", "http://x y/v1", "http://x\n/v1", "http://[::1/v1"],
)  # fmt: skip
def test_addresses_that_are_none_are_refused(url):
    with pytest.raises(BadInput) as refused:
        Judge(url)
    assert "secret" not in str(refused.value)


def test_the_key_goes_with_every_request_and_is_told_nowhere(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")

    def leak(body):
        return 400, b"your key sk-very-secret is no good", {}

    with StubJudge(leak) as stub:
        judge = Judge(stub.url, "stub-judge")
        reply = ask(judge)
    assert stub.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert reply.problem == "HTTP 400: your key [key] is no good"
    assert "sk-very-secret" not in repr(vars(judge))
    with pytest.raises(BadInput) as refused:
        _ = judge.identity
    assert "sk-very-secret" not in refused.value.problem + refused.value.fix


def sent_key(url, **options):
    seen = []

    def handle(request):
        seen.append(request.headers.get("authorization"))
        return httpx.Response(400)

    ask(Judge(url, "m", transport=transport(handle), **options))
    return seen[0]


def test_the_key_crosses_the_network_in_the_open_only_when_it_is_named(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    monkeypatch.setenv("MY_KEY", "two")
    assert sent_key("http://judge.example.org/v1") is None
    assert sent_key("https://judge.example.org/v1") == "Bearer one"
    assert sent_key("http://localhost:8000") == "Bearer one"
    assert sent_key("http://judge.example.org/v1", key_variable="MY_KEY") == "Bearer two"
    monkeypatch.delenv("OPENAI_API_KEY")
    assert sent_key("https://judge.example.org/v1") is None


@pytest.mark.parametrize("key", ["", "se\ncret", "se cret", "sécret"])
def test_a_key_that_is_none_is_refused_without_showing_it(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(BadInput, match="MY_KEY") as refused:
        Judge("http://127.0.0.1:8000", key_variable="MY_KEY")
    assert "cret" not in refused.value.problem


def test_no_judge_there():
    with StubJudge() as stub:
        url = stub.url
    with pytest.raises(BadInput, match=r"no judge answers at http://127\.0\.0\.1"):
        _ = Judge(url, "m").identity


def test_a_refused_key_is_said():
    def handle(request):
        return httpx.Response(401)

    with pytest.raises(BadInput, match="refuses the key"):
        _ = Judge("https://judge.example.org", "m", transport=transport(handle)).identity


def test_the_only_model_needs_no_name_and_two_do():
    with StubJudge(models=("one",)) as stub:
        assert Judge(stub.url).model == "one"
    with StubJudge(models=("one", "two")) as stub, pytest.raises(BadInput, match="lists one, two"):
        _ = Judge(stub.url).identity


def test_a_server_without_a_list_needs_a_name():
    def handle(request):
        if request.url.path == "/v1/models":
            return httpx.Response(500)
        return httpx.Response(200, json=reply_to(json.loads(request.content)))

    def judge(model):
        return Judge("http://127.0.0.1:1", model, transport=transport(handle))

    assert judge("m").identity.served is None
    with pytest.raises(BadInput, match="which model"):
        _ = judge(None).identity


def test_an_unknown_model_is_refused_with_those_there_are():
    def refuse(body):
        return 404, {"error": {"message": "no such model"}}, {}

    with StubJudge(refuse) as stub, pytest.raises(BadInput, match=r"no such model.*it lists stub-judge"):
        _ = Judge(stub.url, "stub-juge").identity


def test_identity_tells_judges_apart():
    def identity(models=("m",), fingerprint="f", **options):
        with StubJudge(lambda body: completion("?", fingerprint), models) as stub:
            return Judge(stub.url, models[0], **options).identity

    kinds = [
        identity(),
        identity(("n",)),
        identity(fingerprint="g"),
        identity(fingerprint=None),
        identity(extra={"top_k": 1}),
    ]
    assert len({kind.key(RIGHT) for kind in kinds}) == len(kinds)
    assert identity().key(RIGHT) == kinds[0].key(RIGHT) != kinds[0].key(WRONG)


def test_no_path_and_no_address_in_an_identity():
    with StubJudge(models=("/home/me/secret/judge",)) as stub:
        told = json.dumps(Judge(stub.url).identity.to_json())
    assert "secret" not in told
    assert "127.0.0.1" not in told
    assert '"model": "judge"' in told


def test_a_cut_text_is_the_same_question():
    identity = Identity("m", None, None, "p")
    long = replace(WRONG, answer="x" * 3000)
    assert identity.key(long) == identity.key(replace(long, answer="x" * 2000 + "y"))
    assert identity.key(long) != identity.key(replace(long, answer="x" * 1999 + "y"))


def test_no_proxy_stands_between_this_machine_and_itself(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with StubJudge() as stub:
        assert ask(Judge(stub.url)).verdict == "correct"


@pytest.mark.parametrize("text", ["a\x1b[31mb\u202ec", "x" * 5000, "a\n\n b", "\ud800"])
def test_what_is_shown_is_harmless(text):
    assert printable(text).isprintable()
    assert len(printable(text)) <= 300
