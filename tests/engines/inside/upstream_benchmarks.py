"""Holds the tasks and the metrics against lmms-eval's own functions, in its environment.

    python upstream_benchmarks.py DATA OUT.json

DATA holds the miniature data sets. Writes `checked`, how many comparisons were made, and `problems`, those that failed.
"""

import importlib.util
import itertools
import json
import os
import random
import sys
from pathlib import Path

import yaml

os.environ["OPENAI_API_KEY"] = "none"  # upstream makes clients of a judge as it is loaded; none is asked here
os.environ["HF_HOME"] = str(Path(sys.argv[2]).parent / "hub")

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

import lmms_eval  # noqa: E402
from datasets import load_dataset  # noqa: E402
from lmms_eval.tasks._task_utils.reasoning_utils import compute_score  # noqa: E402
from lmms_eval.tasks.hallusion_bench import utils as hallusion  # noqa: E402
from lmms_eval.tasks.mathvision import utils as mathvision  # noqa: E402
from lmms_eval.tasks.mathvista import utils as mathvista  # noqa: E402
from lmms_eval.tasks.mmmu import utils as mmmu  # noqa: E402
from lmms_eval.tasks.mmmu_pro import utils as mmmu_pro  # noqa: E402
from lmms_eval.tasks.wemath.reasoning import utils as wemath  # noqa: E402

from benchmarks import metrics  # noqa: E402
from benchmarks.scoring.maths import Maths  # noqa: E402

TASKS = ROOT / "benchmarks" / "suites" / "tasks"
UPSTREAM = Path(lmms_eval.__file__).parent / "tasks"
DEFINITIONS = {
    "prism_mathvista_testmini": "mathvista/mathvista_testmini_format.yaml",
    "prism_mathverse_testmini": "mathverse/mathverse_testmini.yaml",
    "prism_mathvision_testmini": "mathvision/mathvision_testmini.yaml",
    "prism_wemath_testmini": "wemath/reasoning/wemath_testmini_thinking.yaml",
    "prism_mmmu_val": "mmmu/mmmu_val.yaml",
    "prism_mmmu_pro_standard": "mmmu_pro/mmmu_pro_standard.yaml",
    "prism_mmmu_pro_vision": "mmmu_pro/mmmu_pro_vision.yaml",
    "prism_hallusion_bench_image": "hallusion_bench/hallusion_bench_image.yaml",
}

problems: list[str] = []
checked = 0


def same(what: str, ours: object, theirs: object) -> None:
    global checked
    checked += 1
    if ours != theirs:
        problems.append(f"{what}: ours {ours!r}, upstream {theirs!r}")


def ours(name: str):
    spec = importlib.util.spec_from_file_location(name, TASKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verdict(module, doc: dict, answer: str) -> dict:
    return module.process_results(doc, [f"<answer>{answer}</answer>"])["prism"]


def plain(path: Path) -> dict:
    """A task definition without its functions."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!function", lambda _, node: node.value)
    return yaml.load(path.read_text(), Loader=loader)


def check_definitions() -> None:
    for task, path in DEFINITIONS.items():
        mine, theirs = plain(TASKS / f"{task}.yaml"), plain(UPSTREAM / path)
        for field in ("dataset_path", "dataset_name", "test_split", "output_type"):
            same(f"{task} {field}", mine.get(field), theirs.get(field))
        same(f"{task} name", mine["task"], task)


def check_verdicts(data: Path) -> None:
    """For answers that upstream's scorers understand: ours are theirs."""
    module = ours("mathvista")
    for doc in load_dataset(str(data / "AI4Math" / "MathVista"), split="testmini"):
        if doc["answer_type"] != "float":  # upstream cannot round them, see mathvista.py
            for answer in ("A", "B", "(B)", "14", "15", "14.0", "[2007, 2008]", "[2008, 2009]"):
                if (doc["question_type"] == "multi_choice") != (answer.strip("()").isalpha()):
                    continue
                normal = mathvista.mathvista_evaluator.normalize_extracted_answer(
                    answer, doc["choices"], doc["question_type"], doc["answer_type"], doc["precision"]
                )
                theirs = mathvista.mathvista_evaluator.safe_equal(normal, doc["answer"])
                same(f"MathVista {doc['pid']} {answer}", verdict(module, doc, answer)["correct"], theirs)
    module = ours("mathvision")
    for doc in load_dataset(str(data / "MathLLMs" / "MathVision"), split="testmini"):
        for answer in (
            "A",
            "(B)",
            "C",
            "0.5",
            "\\frac{1}{3}",
            "12",
            "13",
            "12.004",
            "\\sqrt{12}",
            "3\\sqrt{3}",
            "24/2",
        ):
            # Of options in dollars upstream's parser understands none.
            bare = {**doc, "options": [option.strip("$") for option in doc["options"]]}
            theirs = mathvision.mathvision_process_results(bare, [f"\\boxed{{{answer}}}"])["mathvision_standard_eval"]
            same(f"MathVision {doc['id']} {answer}", verdict(module, doc, answer)["correct"], theirs["scores"][0])
    module = ours("wemath")
    for doc in load_dataset(str(data / "We-Math" / "We-Math"), split="testmini"):
        for answer in ("A", "B", "(B)", "B.", "E"):
            theirs = compute_score("wemath", f"<answer>{answer}</answer>", doc["answer"])["acc_score"] == 1
            same(f"WeMath {doc['ID']} {doc['key']} {answer}", verdict(module, doc, answer)["correct"], theirs)
    module = ours("mmmu")
    for doc in load_dataset(str(data / "lmms-lab-encoder" / "MMMU"), split="validation"):
        multiple = doc["question_type"] == "multiple-choice"
        for answer in (
            ("A", "B", "(B)") if multiple else ("smooth", "cardiac", "1000", "1,000", "999", "The answer is 5")
        ):
            if doc["answer"].startswith("["):
                continue  # upstream compares with the list as it is written, see mmmu.py
            scored = mmmu.mmmu_process_results(doc, [answer])["mmmu_acc"]
            theirs = mmmu.evaluate_mmmu([scored])[1]["acc"] == 1
            same(f"MMMU {doc['id']} {answer}", verdict(module, doc, answer)["correct"], theirs)
    module = ours("mmmu_pro")
    for name in ("standard (10 options)", "vision"):
        for doc in load_dataset(str(data / "MMMU" / "MMMU_Pro" / name), split="test"):
            for answer in "ABCDIJ":
                scored = mmmu_pro.mmmu_pro_process_results(doc, [answer])["mmmu_acc"]
                theirs = mmmu_pro.evaluate_mmmu([scored])[1]["acc"] == 1
                same(f"MMMU-Pro {name} {doc['id']} {answer}", verdict(module, doc, answer)["correct"], theirs)


NASTY = [
    *(
        "",
        " ",
        "A",
        "\x00",
        "\ud800",
        "{}",
        "{{{",
        "}}",
        "$",
        "$$$",
        "()",
        "[]",
        "(,)",
        "\\",
        "\\frac{1}{0}",
        "1/0",
        "0/0",
    ),
    *("1e999", "nan", "-", "=", "==", "≈", "\\approx", "½", "🙂", "\u202eabc", "a" * 5000, "[1, 2", "['A'", "eval(1)"),
    *("<answer>", "</answer>", "\\boxed{", "2" * 4000),
]


def check_nothing_raises(data: Path) -> None:
    """Whatever a response holds, every task gives a verdict, and with no answer there is none that is right."""
    for task, path in DEFINITIONS.items():
        del path
        config = plain(TASKS / f"{task}.yaml")
        folder = data / config["dataset_path"]
        if (folder / str(config.get("dataset_name"))).is_dir():
            folder /= config["dataset_name"]
        doc = load_dataset(str(folder), split=config["test_split"])[-1]
        module = ours(config["process_results"].partition(".")[0])
        for text in NASTY:
            for response in (text, f"<answer>{text}</answer>", f"The answer is {text}"):
                for style in ("format", "native"):
                    found = module.process_results(doc, [response], style=style)["prism"]
                    unparsed = found["answer"] is None
                    same(f"{task} {style} {response[:40]!r}", unparsed, found["rule"] == "unparseable")


def check_wemath(chance: random.Random) -> None:
    """Strict and loose over 525 problems, as published: upstream divides by that number."""
    rows, docs = [], []
    for problem in range(525):
        steps = 2 if problem < 360 else 3
        for step in [*map(str, range(1, steps + 1)), "multi"]:
            right, key = chance.random() < 0.7, f"{steps}steps_{step}"
            group = {"group_id": f"{steps}steps-{problem}", "subset": key, "sample": 0}
            rows.append({"item_id": f"{problem}{step}", **group, "correct": right})
            docs.append({"ID": str(problem), "key": key, "acc_score": float(right)})
    found = metrics._wemath(rows)
    for name, aggregate in (
        ("strict", wemath.wemath_aggregate_results_strict),
        ("loose", wemath.wemath_aggregate_results_loose),
    ):
        same(f"WeMath {name}", f"{found[name]:.2%}", aggregate([dict(doc) for doc in docs]))


def check_hallusion(chance: random.Random) -> None:
    rows, docs = [], []
    for category, subcategory, group in itertools.product(("VD", "VS"), ("ocr", "chart"), range(8)):
        for figure, question in itertools.product(range(0 if category == "VD" else 1, 3), range(3)):
            right = chance.random() < 0.8
            name = "/".join(map(str, (category, subcategory, group, figure, question)))
            rows.append({"item_id": name, "sample": 0, "correct": right})
            where = {"category": category, "subcategory": subcategory, "set_id": str(group), "figure_id": str(figure)}
            docs.append({**where, "question_id": str(question), "visual_input": "1", "check": "1" if right else "0"})
    docs = hallusion.assign_correctness(docs, "check")
    theirs = {
        "aAcc": hallusion.get_eval_all(docs, "check"),
        "qAcc": hallusion.get_eval_pair_all(docs, "check"),
        "fAcc": hallusion.get_eval_fig(docs),
    }
    found = metrics._hallusion_bench(rows)
    for name, counts in theirs.items():
        same(f"HallusionBench {name}", round(found[name], 9), round(counts["correct"] / counts["total"], 9))


def check_mmmu(chance: random.Random) -> None:
    """Upstream averages over subjects weighted by their size, which is the plain share."""
    marks = [chance.random() < 0.6 for _ in range(90)]
    results = [
        {"id": str(i), "subdomain": f"S{i % 7}", "question_type": "multiple-choice", "answer": "A"}
        | {"parsed_pred": ["A" if right else "B"]}
        for i, right in enumerate(marks)
    ]
    rows = [dict.fromkeys(metrics._COLUMNS) | {"correct": right, "rule": "letter"} for right in marks]
    same("MMMU accuracy", round(metrics._shares(rows)["score"], 5), mmmu.mmmu_aggregate_results(results))


def check_options() -> None:
    """Options that MathVerse and WeMath publish inside a text."""
    mathverse, wemath_task = ours("mathverse"), ours("wemath")
    asked = "What is A?\nChoices:\nA:40°\nB: 50 cm\nC:x\nD:No answer"
    same("MathVerse options", mathverse.options_of(asked), ["40°", "50 cm", "x", "No answer"])
    same("MathVerse without options", mathverse.options_of("What is A? A: here."), [])
    same("MathVerse out of order", mathverse.options_of("Choices:\nB:1\nA:2"), [])
    same("WeMath options", wemath_task.options_of("A. 3; B. 4 cm² ; C. 5:6"), ["3", "4 cm²", "5:6"])
    same("WeMath without options", wemath_task.options_of("none"), [])
    doc = {"ID": "1", "key": "2steps_1", "question": "?", "option": "none", "answer": "F"}
    same("WeMath: a letter of options that cannot be read", verdict(wemath_task, doc, "F")["correct"], True)
    same("WeMath: another letter of them", verdict(wemath_task, doc, "B")["rule"], "letter")


def check_maths() -> None:
    """What must not hang, write or end the process that compares."""
    maths = Maths()
    for how, seconds in (("mathvision", 60), ("math_verify", 1)):  # by processor time, by wall time
        same(f"{how}: a tower of powers", maths.equal(how, "3", "9^{9^{9^{9}}}", seconds=seconds), None)
        same(f"{how}: after it", maths.equal(how, "\\frac{1}{2}", "0.5"), True)
    same("a smuggled call", maths.equal("mathvision", "3", "\\variable{exit()}"), None)
    same("prose", maths.equal("math_verify", "3", "word " * 200), None)
    maths.close()


if __name__ == "__main__":
    chance = random.Random(0)
    check_definitions()
    check_verdicts(Path(sys.argv[1]))
    check_nothing_raises(Path(sys.argv[1]))
    for _ in range(3):
        check_wemath(chance)
        check_hallusion(chance)
        check_mmmu(chance)
    check_options()
    check_maths()
    Path(sys.argv[2]).write_text(json.dumps({"checked": checked, "problems": problems}))
