"""Making data: what is asked, what is kept, and that nothing is asked twice."""

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_judge import StubJudge, completion

from integrations.common.chat import Chat
from integrations.errors import BadInput, Interrupted, StageFailed
from prism_cli.making import distill, pairs, passes
from prism_cli.making.asking import JOURNAL, Answer, Asker, Request, Sampling, usable_rows
from prism_cli.making.cost import Meter, Prices, estimate

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cf500f0003860180"
    "5a346d6b0000000049454e44ae426082"
)


def said(answer, caption="a strip", think="so"):
    return f"<caption>{caption}</caption><think>{think}</think><answer>{answer}</answer>"


def row(name, answer="7", **more):
    return {
        "id": name,
        "images": ["images/x.png"],
        "system": None,
        "prompt": f"Sum of {name}?",
        "answer": answer,
    } | more


def pool(folder, *rows):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "x.png").write_bytes(PIXEL)
    path = folder / "pool.jsonl"
    path.write_text(distill.lines(rows))
    return path


def asker(url, path, out, **options):
    chat = Chat(url, "m", role="teacher", attempts=2, patience=0.0, concurrency=options.pop("concurrency", 1))
    return Asker(chat, path, out, Sampling(**options), "Use the form.")


def quiet(*counts):
    pass


def ask(one, rows, samples=1, meter=None):
    requests = one.requests(rows, samples)
    return requests, one.ask(requests, meter or Meter(Prices()), quiet, threading.Event())


def test_a_request_has_the_picture_the_text_the_system_turn_and_a_seed_of_its_own(tmp_path):
    path = pool(tmp_path, row("a"), row("b", system="Mine."))
    with StubJudge(lambda body: completion(said("7")), models=("m",)) as stub:
        ask(asker(stub.url, path, tmp_path / "out", temperature=0.5, max_tokens=9, seed=3), usable_rows(path, None), 2)
    first = stub.asked[0]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("m", 0.5, 9)
    assert [one["seed"] for one in stub.asked] == [3, 3, 4, 4]
    assert [one["messages"][0]["content"] for one in stub.asked[:2]] == ["Use the form.", "Mine."]
    picture, text = first["messages"][1]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert text == {"type": "text", "text": "Sum of a?"}


def test_what_is_in_the_journal_is_not_asked_again_and_a_half_line_is(tmp_path):
    path = pool(tmp_path, row("a"), row("b"))
    with StubJudge(lambda body: completion(said("7")), models=("m",)) as stub:
        one = asker(stub.url, path, tmp_path / "out")
        _, first = ask(one, usable_rows(path, None))
        journal = tmp_path / "out" / JOURNAL
        journal.write_bytes(journal.read_bytes()[:-5])
        _, second = ask(one, usable_rows(path, None))
    assert len(stub.asked) == 3
    assert second == first
    assert len(journal.read_text().splitlines()) == 2


@pytest.mark.parametrize("change", [{"temperature": 0.7}, {"max_tokens": 8}, {"seed": 1}])
def test_another_way_to_draw_is_another_request(tmp_path, change):
    path = pool(tmp_path, row("a"))
    rows = usable_rows(path, None)
    one, other = asker("http://127.0.0.1:1", path, tmp_path), asker("http://127.0.0.1:1", path, tmp_path, **change)
    assert one.requests(rows, 1)[0].key != other.requests(rows, 1)[0].key
    assert one.requests(rows, 1)[0].key == asker("http://127.0.0.1:2", path, tmp_path / "o").requests(rows, 1)[0].key


def test_another_picture_under_the_same_name_is_another_request(tmp_path):
    path = pool(tmp_path, row("a"))
    rows = usable_rows(path, None)
    before = asker("http://127.0.0.1:1", path, tmp_path).requests(rows, 1)[0].key
    (tmp_path / "images" / "x.png").write_bytes(PIXEL + b"\0")
    assert asker("http://127.0.0.1:1", path, tmp_path).requests(rows, 1)[0].key != before


def test_a_request_that_fails_is_told_and_asked_again_the_next_time(tmp_path):
    path = pool(tmp_path, *[row(f"r{i}") for i in range(12)])
    broken = {"on": True}

    def answer(body):
        if broken["on"] and "r3?" in body["messages"][1]["content"][1]["text"]:
            return 400, {"error": "no"}, {}
        return completion(said("7"))

    with StubJudge(answer, models=("m",)) as stub:
        one = asker(stub.url, path, tmp_path / "out")
        with pytest.raises(StageFailed, match="1 of 12 requests were not answered: HTTP 400"):
            ask(one, usable_rows(path, None))
        broken["on"] = False
        requests, answers = ask(one, usable_rows(path, None))
    assert len(stub.asked) == 13
    assert set(answers) == {request.key for request in requests}


def test_a_limit_to_answer_again_later_is_kept(tmp_path):
    path, replies = pool(tmp_path, row("a")), [(429, {}, {"Retry-After": "0"})]
    with StubJudge(lambda body: replies.pop() if replies else completion(said("7")), models=("m",)) as stub:
        _, answers = ask(asker(stub.url, path, tmp_path / "out"), usable_rows(path, None))
    assert len(stub.asked) == 2
    assert len(answers) == 1


def test_asking_ends_at_the_bound_of_its_cost_and_goes_on_with_a_higher_one(tmp_path):
    path = pool(tmp_path, *[row(f"r{i}") for i in range(10)])
    usage = {"usage": {"prompt_tokens": 1000, "completion_tokens": 1000}}
    with StubJudge(lambda body: completion(said("7")) | usage, models=("m",)) as stub:
        one = asker(stub.url, path, tmp_path / "out")
        with pytest.raises(StageFailed, match=r"the cost reached its bound of 0\.006 with 3 of 10 answers"):
            ask(one, usable_rows(path, None), meter=Meter(Prices(1.0, 1.0), most=0.006))
        ask(one, usable_rows(path, None), meter=Meter(Prices(1.0, 1.0)))
    assert len(stub.asked) == 10


def test_a_stop_ends_the_asking_and_keeps_what_was_answered(tmp_path):
    path, stop = pool(tmp_path, *[row(f"r{i}") for i in range(10)]), threading.Event()

    def answer(body):
        if len(stub.asked) == 3:
            stop.set()
        return completion(said("7"))

    with StubJudge(answer, models=("m",)) as stub:
        one = asker(stub.url, path, tmp_path / "out")
        requests = one.requests(usable_rows(path, None), 1)
        with pytest.raises(Interrupted):
            one.ask(requests, Meter(Prices()), quiet, stop)
    assert 2 <= len(one.answers()) <= 4


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "holds no row"),
        ([row("a"), row("a")], "line 2: `id` a stands twice"),
        ([row("a", images=["images/none.png"])], r"line 1: image images/none\.png is missing"),
        ([row("a", prompt=" ")], "line 1: `prompt` is missing or empty"),
    ],
)
def test_rows_that_cannot_be_asked_are_refused(tmp_path, rows, problem):
    with pytest.raises(BadInput, match=problem):
        usable_rows(pool(tmp_path, *rows), None)


def drawn(*texts, cut=(), answer="7", name="a"):
    """Requests of one row and their answers."""
    requests = [Request(row(name, answer), at, f"{name}{at}") for at in range(len(texts))]
    answers = {
        r.key: Answer(r.key, name, r.sample, t, r.sample in cut, 1, 1) for r, t in zip(requests, texts, strict=True)
    }
    return requests, answers


def test_filters_are_counted_each_on_what_reached_it():
    requests, answers = drawn("no form", said("8"), said("7"), said("7.0"), said("7"), cut=(4,))
    asked = []

    def verify(questions):
        asked.extend(questions)
        return [question.answer == "7" for question in questions]

    found = distill.sift(requests, answers, verify, "teacher", keep_all=True)
    assert found.counts == {
        "form": {"seen": 5, "passed": 3},
        "correct": {"seen": 3, "passed": 2},
        "verified": {"seen": 2, "passed": 1},
    }
    assert [(one["sample"], one["filter"]) for one in found.rejected] == [
        (0, "form"), (4, "form"), (1, "correct"), (3, "verified"),
    ]  # fmt: skip
    assert [question.answer for question in asked] == ["7", "7.0"]
    assert [made["response"] for made in found.rows] == [said("7")]


def test_the_first_demonstration_of_a_problem_is_kept_and_its_name_repeats():
    requests, answers = drawn(said("7", think="one"), said("7", think="two"))
    first, again = (distill.sift(requests, answers, None, "t", keep_all=False) for _ in range(2))
    assert [made["response"] for made in first.rows] == [said("7", think="one")]
    assert first.rows == again.rows
    assert len(distill.sift(requests, answers, None, "t", keep_all=True).rows) == 2
    assert "verified" not in first.counts


@given(st.lists(st.sampled_from([said("7"), said("9"), "nothing", ""]), min_size=1, max_size=12))
def test_every_answer_is_either_kept_or_rejected_with_a_reason(texts):
    requests, answers = drawn(*texts)
    found = distill.sift(requests, answers, None, "t", keep_all=True)
    assert len(found.rows) + len(found.rejected) == len(texts)
    assert all(one["why"] for one in found.rejected)


def test_the_hardest_problems_are_those_below_a_pass_rate(tmp_path):
    rates = tmp_path / "rates.jsonl"
    rates.write_text(distill.lines([{"id": "a", "rate": 0.0}, {"id": "b", "rate": 0.25}]))
    rows = [row("a"), row("b")]
    assert distill.hardest(rows, rates, 0.0) == rows[:1]
    assert distill.hardest(rows, rates, 0.25) == distill.hardest(rows, None, 0.0) == rows
    with pytest.raises(BadInput, match="has no pass rate of `c`"):
        distill.hardest([row("c")], rates, 0.0)


def test_a_verdict_is_asked_for_once(tmp_path):
    from integrations.common.judge import Judge, Question

    questions = [Question("Sum?", "7", "7"), Question("Sum?", "7", "8")]
    with StubJudge() as stub:
        verify = distill.judged_by(Judge(stub.url), tmp_path / "verdicts.jsonl", quiet, threading.Event())
        before = len(stub.asked)
        assert verify(questions) == [True, False]
        assert verify(questions) == [True, False]
    assert len(stub.asked) - before <= 3  # the two questions, and the one that tells who the judge is


def test_pass_rates_count_only_right_answers_in_the_form():
    requests, answers = drawn(said("7"), said("seven"), "7", said("9"))
    (rate,) = passes.rates(requests, answers)
    assert (rate.samples, rate.formed) == (4, 3)
    assert rate.passes == 2
    assert passes.spread([rate]) == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]


@given(st.lists(st.integers(0, 16), min_size=1, max_size=30))
def test_prompts_are_too_hard_kept_or_too_easy(right):
    found = [passes.Rate(f"r{at}", count, 16, 16) for at, count in enumerate(right)]
    told = passes.counts(found, 0.2, 0.8)
    kept = passes.keep([row(rate.id) for rate in found], found, 0.2, 0.8)
    assert told["too hard"] + told["kept"] + told["too easy"] == len(found) == sum(passes.spread(found))
    assert len(kept) == told["kept"] == sum(4 <= count <= 12 for count in right)


def test_a_pair_holds_both_segments_of_both_authors():
    requests, answers = drawn(said("8", "seen", "thus"), "no form", said("7"))
    teacher = said("7")
    requests = [Request({**one.row, "response": teacher}, one.sample, one.key) for one in requests]
    made, left_out = pairs.make(requests, answers)
    assert made == [
        {
            "id": "a-0",
            "image": "images/x.png",
            "images": ["images/x.png"],
            "question": "Sum of a?",
            "teacher_caption": "<caption>a strip</caption>",
            "teacher_cot": "<think>so</think><answer>7</answer>",
            "student_caption": "<caption>seen</caption>",
            "student_cot": "<think>thus</think><answer>8</answer>",
        }
    ]
    assert left_out == {"not of the form": 1, "the teacher's own words": 1}


def test_a_pool_without_demonstrations_makes_no_pairs():
    with pytest.raises(BadInput, match="row `a` has no demonstration"):
        pairs.teachers([row("a")])


def test_an_estimate_has_prompts_pictures_and_answers():
    likely, most = estimate(Prices(2.0, 8.0), characters=4_000_000, images=0, requests=1000, max_tokens=1000)
    assert (likely, most) == (2.0 + 2.0, 2.0 + 8.0)
    assert estimate(Prices(1.0, 0.0), 0, 1_000_000, 1, 1)[0] == 1300


def test_images_keep_their_place_beside_the_new_pool(tmp_path):
    path = pool(tmp_path / "in", row("a"))
    requests, answers = drawn(said("7"))
    distill.write(distill.sift(requests, answers, None, "t", False), path, tmp_path / "out")
    assert (tmp_path / "out" / "images" / "x.png").read_bytes() == PIXEL
    (made,) = usable_rows(tmp_path / "out" / distill.DEMONSTRATIONS, None)
    assert made["source"] == "distilled:t"
    assert not Path(tmp_path / "out" / (distill.REJECTED + ".tmp")).exists()


def test_a_journal_of_something_else_is_refused(tmp_path):
    path = pool(tmp_path, row("a"))
    (tmp_path / JOURNAL).write_text(json.dumps({"other": 1}) + "\n")
    with pytest.raises(BadInput, match="line 1: not an answer of this journal"):
        asker("http://127.0.0.1:1", path, tmp_path).answers()
