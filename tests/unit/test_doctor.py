"""What the doctor says of machines that are not at hand, and of this one."""

import time
from email.utils import formatdate

import pytest

from prism_cli.doctor import engines, gpus, hub, machine, variables
from prism_cli.doctor.machine import GIB, Limits
from prism_cli.doctor.speed import assume
from prism_cli.pipeline import lineage
from prism_cli.planning.assumptions import given
from prism_cli.planning.gpus import CARDS, NONE

H100 = "NVIDIA H100 80GB HBM3, 81559, 4, 580.65.06, 9.0, Disabled"
OLD = "Tesla T4, 15360, 2, 580.65.06, 7.5, [N/A]"
ROOMY = Limits(memory=64 * GIB, shared_memory=8 * GIB, open_files=65536, processes=-1, cores=16)


def levels(found):
    return {(diagnosis.subject, diagnosis.level) for diagnosis in found}


def changed(**fields):
    return Limits(**{**vars(ROOMY), **fields})


@pytest.mark.parametrize(
    ("version", "system", "processor", "level"),
    [
        ((3, 11), "Linux", "x86_64", "ok"),
        ((3, 12), "Linux", "x86_64", "ok"),
        ((3, 13), "Linux", "x86_64", "error"),
        ((3, 11), "Darwin", "arm64", "error"),
        ((3, 11), "Linux", "aarch64", "error"),
    ],
)
def test_only_interpreters_that_the_locks_are_for_pass(version, system, processor, level):
    assert machine.interpreter(version, system, processor).level == level


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (ROOMY, set()),
        (changed(memory=8 * GIB), {("memory", "warning")}),
        (changed(memory=4 * GIB), {("memory", "error")}),
        (changed(shared_memory=64 * 2**20), {("shared memory", "warning")}),
        (changed(shared_memory=None), {("shared memory", "error")}),
        (changed(open_files=1024), {("open files", "warning")}),
        (changed(open_files=-1), set()),
        (changed(processes=1000), {("processes", "warning")}),
        (changed(cores=1), {("cores", "warning")}),
    ],
)
def test_a_limit_that_bites_is_named(limits, expected):
    found = list(machine.judge(limits))
    assert {pair for pair in levels(found) if pair[1] != "ok"} == expected
    assert all(diagnosis.fix for diagnosis in found if diagnosis.level in ("warning", "error"))


@pytest.mark.parametrize(
    ("gcc", "header", "level"), [(None, True, "error"), ("gcc", False, "error"), ("gcc", True, "ok")]
)
def test_what_triton_needs_to_launch_its_kernels(tmp_path, gcc, header, level):
    if header:
        (tmp_path / "Python.h").touch()
    found = gpus.compiler(gcc, tmp_path / "Python.h")
    assert (found.level, bool(found.fix)) == (level, level == "error")


@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("2,3", 2), ("0,-1,1", 1), ("GPU-a1,GPU-b2", 2)]
)
def test_devices_after_one_that_is_none_are_hidden(visible, count):
    assert lineage.shown(visible) == count


def test_a_folder_that_does_not_exist_yet_is_measured_where_it_will_be(tmp_path):
    assert machine.disk("runs", tmp_path / "not" / "yet").level in ("ok", "warning", "error")
    assert str(tmp_path / "not") in machine.disk("runs", tmp_path / "not" / "yet").found


def test_equal_gpus_with_a_new_driver_pass():
    found = list(gpus.judge(gpus.parse("\n".join([H100] * 8)), {"verl": 13, "vllm": 13}))
    assert levels(found) == {("GPUs", "ok"), ("driver", "ok")}
    assert "8 x NVIDIA H100" in found[0].found


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([H100, OLD], {("GPUs", "warning"), ("GPUs", "error"), ("driver", "ok")}),
        ([H100.replace(" 4,", " 40000,")], {("GPUs", "ok"), ("GPU memory", "warning"), ("driver", "ok")}),
        ([H100.replace("580.65.06", "535.104.05")], {("GPUs", "ok"), ("driver", "error")}),
        ([H100.replace("Disabled", "Enabled")], {("GPUs", "ok"), ("GPUs", "warning"), ("driver", "ok")}),
    ],
)
def test_gpus_that_will_not_do_are_named(lines, expected):
    assert levels(gpus.judge(gpus.parse("\n".join(lines)), {"verl": 13})) == expected


def test_a_driver_suffices_for_an_older_cuda():
    assert levels(gpus.driver("535.104.05", {"verl": 12})) == {("driver", "ok")}


def test_lines_that_are_no_gpu_are_left_out():
    assert gpus.parse("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.") == []


def test_peer_access_is_read_from_the_matrix():
    whole = " \tGPU0\tGPU1\n GPU0\tX\tOK\n GPU1\tOK\tX\n\nLegend:\n  X = Self\n"
    assert gpus.peers(whole).level == "ok"
    assert gpus.peers(whole.replace("OK", "NS")).level == "warning"
    assert gpus.peers("").level == "note"


def test_hidden_gpus_are_told_as_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (found,) = gpus.examine({})
    assert found.level == "note"
    assert "CUDA_VISIBLE_DEVICES is empty" in found.found


def test_variables_that_bite_are_named_without_their_values():
    found = list(variables.examine({"CUDA_LAUNCH_BLOCKING": "1", "HF_ENDPOINT": "https://internal.example"}))
    assert levels(found) == {("variables", "warning"), ("variables", "note")}
    assert "internal.example" not in str(found)


def test_variables_that_are_off_do_not_bite():
    assert levels(variables.examine({"CUDA_LAUNCH_BLOCKING": "0", "HF_HUB_OFFLINE": ""})) == {("variables", "ok")}


@pytest.mark.parametrize(("token", "level"), [("", "warning"), (" hf_x\n", "error"), ("hf_x", "ok")])
def test_a_token_that_cannot_work_is_named_and_never_shown(token, level):
    found = list(variables.examine({"HF_TOKEN": token}))
    assert levels(found) == {("variables", level)}
    assert "hf_x" not in str(found)


@pytest.mark.parametrize(
    ("built", "problems", "level"),
    [(True, [], "ok"), (False, [], "note"), (True, ["cannot import verl: no module"], "error")],
)
def test_environments_are_judged(built, problems, level):
    assert engines.judge("verl", built, own=False, optional=False, problems=problems).level == level


@pytest.mark.parametrize(("version", "bad"), [("2.9.1", True), ("2.9", True), ("2.11.0", False), ("2.90.0", False)])
def test_a_torch_with_a_known_regression_is_named(version, bad):
    assert bool(list(engines.known_bad("verl", version))) is bad


def test_the_torch_of_an_environment_of_your_own_is_found(tmp_path):
    (tmp_path / "lib/python3.11/site-packages/torch-2.9.1+cu128.dist-info").mkdir(parents=True)
    assert engines.own_torch(tmp_path) == "2.9.1+cu128"
    assert engines.own_torch(tmp_path / "lib") is None


def test_cuda_of_each_engine_is_read_from_its_lock():
    from prism_cli.engines import environments

    found = engines.cuda({name: environments.pins(name) for name in environments.names()})
    assert set(found) == set(environments.names()) - {"trackers"}
    assert set(found.values()) <= set(gpus.DRIVERS)


@pytest.mark.parametrize(("off", "level"), [(0, "ok"), (600, "warning"), (-600, "warning")])
def test_a_clock_that_is_off_is_named(off, level):
    now = time.time()
    assert levels(hub.clock(formatdate(now), now + off)) == {("clock", level)}


def test_what_a_login_may_do_is_told():
    who = {"name": "ada", "orgs": [{"name": "prism-vlm"}], "auth": {"accessToken": {"role": "write"}}}
    assert hub.permissions(who).level == "ok"
    assert "prism-vlm" in hub.permissions(who).found
    assert hub.permissions({**who, "auth": {"accessToken": {"role": "read"}}}).level == "note"


def test_measured_speeds_become_assumptions_that_a_plan_takes():
    speed = {"matmul_tflops": 692.3, "memory_gb_s": 2680.0}
    found = assume(speed, CARDS["H100-80GB"])
    assert found == {"bandwidth_utilisation": 0.8, "sft_utilisation": 0.35, "align_utilisation": 0.35}
    assert given([f"{name}={value}" for name, value in found.items()]).bandwidth_utilisation == 0.8
    assert assume(speed, NONE.card) == {}
