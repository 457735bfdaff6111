"""A judge without a model: an OpenAI-compatible server whose verdict is a strict function of the fields it is sent.

with StubJudge() as stub:
    Judge(stub.url)

python tests/unit/stub_judge.py 8000        # the same, for trying things by hand
"""

import json
import re
import threading
from contextlib import suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def verdict_of(fields):
    """Compare the answer with the reference and nothing else; text that addresses the judge is just another text."""
    wanted, got = _value(fields["reference"]), _value(fields["answer"])
    content = dict(re.findall(r"\(([A-D])\) (\S+)", fields["question"]))
    options = {wanted, _value(content[fields["reference"]])} if fields["reference"] in content else {wanted}
    return "correct" if got in options else "wrong"


def _value(text):
    text = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text.strip().lower().rstrip("."))
    text = re.sub(r"^(a|the|[a-z] =) |,(?=\d{3}\b)| cm$", "", text)
    with suppress(ValueError, ZeroDivisionError):
        return Fraction(text)
    return text


def reply_to(body):
    """The chat completion for a request's body."""
    fields = json.loads(body["messages"][-1]["content"])
    return completion(f"VERDICT {fields['ticket']} {verdict_of(fields)}")


def completion(text, fingerprint="stub-1"):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"object": "chat.completion", "system_fingerprint": fingerprint, "choices": [choice]}


class StubJudge:
    """The server, in a thread.

    Args:
        answer: body of a request -> a reply as (status, JSON or bytes, headers), or a JSON object with status 200.
        models: names that it lists.
    """

    def __init__(self, answer=reply_to, models=("stub-judge",), port=0):
        self.answer = answer
        self.models = models
        self.asked = []
        """Bodies of the questions so far."""
        self.headers = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(stub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet per reply: with two, each would wait for the other side's delayed acknowledgement

        def do_GET(self):
            listed = [{"id": name, "object": "model", "root": f"/models/{name}"} for name in stub.models]
            self.send(200, {"object": "list", "data": listed}) if self.path == "/v1/models" else self.send(404, {})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.asked.append(body)
            stub.headers.append(dict(self.headers))
            told = stub.answer(body) if self.path == "/v1/chat/completions" else (404, {}, {})
            self.send(*told) if isinstance(told, tuple) else self.send(200, told)

        def send(self, status, content, headers=()):
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            with suppress(ConnectionError):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **dict(headers)}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    return Handler


if __name__ == "__main__":
    import sys

    with StubJudge(port=int(sys.argv[1])) as running:
        print(running.url, flush=True)
        threading.Event().wait()
