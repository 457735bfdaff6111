import pytest

from integrations.errors import BadInput
from release import names
from release.names import Member


@pytest.mark.parametrize(
    "text",
    [
        "prism-vlm",
        "prism-vlm/a/b",
        "/digits",
        "prism-vlm/",
        "../digits",
        "prism-vlm/..",
        "prism-vlm/a..b",
        "prism-vlm/a--b",
        "-prism/digits",
        "prism-vlm/-rf",
        "prism-vlm/digits-",
        "prism-vlm/digits.git",
        "prism-vlm/digits.GIT",
        "prism-vlm/[red]digits[/red]",
        "prism-vlm/{{ 7*7 }}",
        "prism-vlm/digits\n",
        "prism-vlm/dig\x1b[31mits",
        "prism-vlm/dig its",
        "prism-vlm/dïgits",
        "prism-vlm/digits?x=1",
        "prism-vlm/%2e%2e",
        "https://huggingface.co/prism-vlm/digits",
        "prism-vlm/" + "d" * 90,
        "",
    ],
)
def test_what_is_not_a_repository_is_refused_without_repeating_its_tricks(text):
    with pytest.raises(BadInput) as refused:
        names.repo(text)
    assert refused.value.problem.isprintable()
    assert "[red]" not in refused.value.problem
    assert refused.value.fix


@pytest.mark.parametrize("text", ["prism-vlm/digits", "a/b", "prism-vlm/PRISM-4B_v2.1-SFT"])
def test_a_repository(text):
    assert names.repo(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "-v1", "v1/0", "v1..0", "v1.lock", "v1.", "main", "HEAD", "v1\n", "v 1", "v1~1", "v1^", "v1:x", "@{u}"),
        *("v1\\0", "deadbeef", "0123456789abcdef0123456789abcdef01234567", "[bold]v1[/]", "v" * 64, "refs/tags/v1"),
        "ｖ1",
    ],
)
def test_what_cannot_be_a_tag(text):
    with pytest.raises(BadInput, match="cannot be a tag"):
        names.tag(text)


@pytest.mark.parametrize("text", ["v1.0", "2026-11-21", "v1.0-rc.1+build", "1"])
def test_a_tag(text):
    assert names.tag(text) == text


@pytest.mark.parametrize("text", ["main", "v1.0", "a" * 40, "refs/pr/12"])
def test_a_revision(text):
    assert names.revision(text) == text


@pytest.mark.parametrize("text", ["refs/heads/main", "refs/pr/0", "refs/pr/1/../2", "../main", "abc1234", "--help"])
def test_what_is_no_revision(text):
    with pytest.raises(BadInput):
        names.revision(text)


@pytest.mark.parametrize(
    "text", ["", " x", "x\ny", "<b>x</b>", "[red]x", "{{ x }}", "-x", "a" * 61, "a/../b", "x\u202ey"]
)
def test_what_cannot_be_a_collection(text):
    with pytest.raises(BadInput):
        names.collection(text)


def test_a_collection():
    assert names.collection("PRISM: digits (three stages), v1.0") == "PRISM: digits (three stages), v1.0"


def test_names_that_differ_only_in_case_are_refused():
    names.not_a_twin("v1.0", ["v1.0", "v2"], "tag")
    with pytest.raises(BadInput, match=r"`V1.0` exists, spelled `v1.0`"):
        names.not_a_twin("V1.0", ["v1.0"], "tag")


@pytest.mark.parametrize(
    ("kinds", "algorithm", "name"),
    [
        (["sft"], "grpo", "prism-vlm/digits-SFT"),
        (["sft", "sft"], "grpo", "prism-vlm/digits-SFT"),
        (["sft", "align"], "grpo", "prism-vlm/digits-SFT-PRISM"),
        (["sft", "discriminator", "align"], "grpo", "prism-vlm/digits-SFT-PRISM"),
        (["sft", "discriminator", "align", "rlvr"], "grpo", "prism-vlm/digits-SFT-PRISM-GRPO"),
        (["sft", "rlvr"], "grpo", "prism-vlm/digits-SFT-GRPO"),
        (["sft", "rlvr"], "dapo", "prism-vlm/digits-SFT-DAPO"),
        (["sft", "discriminator"], "grpo", "prism-vlm/digits-SFT-discriminator"),
        (["sft", "align", "discriminator"], "grpo", "prism-vlm/digits-SFT-PRISM-discriminator"),
    ],
)
def test_a_checkpoint_is_called_by_what_was_done_to_it(kinds, algorithm, name):
    assert names.member("prism-vlm/digits", kinds, algorithm) == name


def test_a_family_has_one_name_for_each():
    members = [
        Member("prism", "base", ("sft",)),
        Member("prism", "sft", ("sft", "sft")),
        Member("prism", "align", ("sft", "sft", "discriminator", "align")),
        Member("prism", "rlvr", ("sft", "sft", "discriminator", "align", "rlvr")),
        Member("baseline", "rlvr", ("sft", "sft", "rlvr")),
        Member("control", "sft", ("sft", "sft")),
        Member("control", "rlvr", ("sft", "sft", "rlvr")),
    ]
    assert [name.removeprefix("prism-vlm/d-") for name in names.family("prism-vlm/d", members).values()] == [
        "SFT-base",
        "SFT",
        "SFT-PRISM",
        "SFT-PRISM-GRPO",
        "SFT-GRPO",
        "SFT-control",
        "SFT-GRPO-control",
    ]


def test_a_family_whose_names_get_too_long_is_refused():
    with pytest.raises(BadInput, match="characters"):
        names.family("prism-vlm/" + "d" * 80, [Member("a", "rlvr", ("sft", "align", "rlvr"))])
