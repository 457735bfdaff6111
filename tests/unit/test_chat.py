"""What the client tells of an answer beside its text."""

import json

from integrations.common.chat import Chat, ask_all, httpx


def chat_with(*answers, **options):
    """A chat whose server answers with these bodies, and the requests that it got."""
    waiting, got = list(answers), []

    def answer(request):
        got.append(json.loads(request.content))
        return httpx.Response(200, stream=httpx.ByteStream(json.dumps(waiting.pop(0)).encode()))

    transport = httpx.MockTransport(answer)
    return Chat("http://127.0.0.1:1", "teacher", role="teacher", transport=transport, **options), got


def said_by(body):
    chat, got = chat_with(body)
    heard = []
    ask_all(chat, [chat.body([{"role": "user", "content": "?"}], temperature=0.5)], lambda at, said: heard.append(said))
    return heard[0], got[0]


def test_text_usage_and_reason_are_told():
    choice = {"message": {"content": "12"}, "finish_reason": "length"}
    said, got = said_by({"choices": [choice], "usage": {"prompt_tokens": 30, "completion_tokens": 2}})
    assert (said.text, said.finish_reason, said.prompt_tokens, said.completion_tokens) == ("12", "length", 30, 2)
    assert got == {
        "model": "teacher",
        "messages": [{"role": "user", "content": "?"}],
        "stream": False,
        "temperature": 0.5,
    }


def test_usage_that_makes_no_sense_counts_as_none():
    said, _ = said_by({"choices": [{"message": {"content": "12"}}], "usage": {"prompt_tokens": "many"}})
    assert (said.text, said.prompt_tokens, said.completion_tokens, said.finish_reason) == ("12", 0, 0, None)


def test_further_fields_of_a_server_go_with_every_request():
    chat, _ = chat_with(extra={"top_k": 1})
    assert chat.body([], temperature=1.0)["top_k"] == 1
