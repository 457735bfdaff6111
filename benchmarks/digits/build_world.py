"""Write the digits world to disk: pools as JSON lines, strips as PNG, a summary and a contact sheet.

    python -m benchmarks.digits.build_world --settings world.json --seed 1 --out data/

Runs in the alignment environment, whose scikit-learn ships the scans (UCI Optical Recognition of Handwritten Digits,
1,797 scans of 8 x 8). Training, validation and test never share a scan. The same settings and seed give the same bytes.
`--settings` is a `DigitsWorld` as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.digits.contact_sheet import Card, draw
from benchmarks.digits.world import (
    CLEAN,
    DRILL,
    KINDS,
    READING,
    Annotator,
    Question,
    ask,
    demonstrate,
    drill,
    plain_answer,
    score,
)
from integrations.common.files import whole_folder

SIDE = 32
"""Pixels of one digit: patch 16 times merge 2, so one digit is one visual token."""

Row = dict[str, Any]


class Strips:
    """Draws strips of scans and writes each different picture once, named by its content."""

    def __init__(self, folder: Path) -> None:
        scans = load_digits()
        self.labels: list[int] = [int(label) for label in scans.target]
        self.tiles = [_enlarge(scan) for scan in scans.images]
        self.folder = folder
        self.hashes: dict[str, str] = {}
        folder.mkdir()

    def write(self, scans: Iterable[int]) -> str:
        """The strip's path relative to the data folder."""
        encoded = io.BytesIO()
        self.picture(scans).save(encoded, "PNG", compress_level=1)
        digest = hashlib.sha256(encoded.getvalue()).hexdigest()
        path = f"{self.folder.name}/{digest[:16]}.png"
        if path not in self.hashes:
            (self.folder / f"{digest[:16]}.png").write_bytes(encoded.getvalue())
            self.hashes[path] = digest
        return path

    def picture(self, scans: Iterable[int]) -> Image.Image:
        """Height SIDE, width SIDE per digit, RGB, dark ink on white."""
        strip = np.concatenate([self.tiles[scan] for scan in scans], axis=1)
        return Image.fromarray(np.repeat(strip[:, :, None], 3, axis=2))


def _enlarge(scan: np.ndarray) -> np.ndarray:
    """One 8 x 8 scan (0 paper to 16 ink) as SIDE x SIDE gray bytes (255 paper, 0 ink)."""
    gray = Image.fromarray(np.uint8(np.rint(255 - scan * 255 / 16)))
    return np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def split_scans(world: SimpleNamespace, count: int) -> dict[str, list[int]]:
    """Disjoint scan numbers for `train`, `validation` and `test`; depends on `world_seed` only."""
    order = list(range(count))
    random.Random(f"{world.world_seed}:scans").shuffle(order)
    test, validation = world.test_scans, world.validation_scans
    return {"test": order[:test], "validation": order[test : test + validation], "train": order[test + validation :]}


class Maker:
    """Draws the items of one pool from one set of scans."""

    def __init__(self, world: SimpleNamespace, strips: Strips, scans: list[int], seed: str) -> None:
        self.world, self.strips, self.scans, self.rng = world, strips, scans, random.Random(seed)

    def question(self) -> tuple[Question, list[int]]:
        """A question and the scans of its strip."""
        level = "hard" if self.rng.random() < self.world.hard_share else "easy"
        fewest, most = getattr(self.world, f"{level}_digits")
        scans = [self.rng.choice(self.scans) for _ in range(self.rng.randint(fewest, most))]
        return ask(self.rng, [self.strips.labels[scan] for scan in scans], level, self.world.choice_share), scans

    def row(self, source: str, annotator: Annotator | None = None) -> Row:
        """A question, demonstrated by `annotator` where one is given."""
        question, scans = self.question()
        task = _task(question)
        response = None
        if annotator is not None:
            shown = demonstrate(question, annotator, self.rng)
            response, task["mistakes"] = shown.text, shown.mistakes
        return self._row(source, scans, question.text, response, question.answer, task)

    def plain(self) -> Row:
        """A question with a right answer that lacks the paper's form."""
        question, scans = self.question()
        return self._row("questions", scans, question.text, plain_answer(question), question.answer, _task(question))

    def reading(self) -> Row:
        """A strip that is only read."""
        question, scans = self.question()
        digits = " ".join(map(str, question.digits))
        task = {"kind": "read", "level": question.level, "digits": question.digits, "options": None}
        return self._row("reading", scans, self.rng.choice(READING), digits, digits, task)

    def drill(self) -> Row:
        """A strip on which everything is worked out."""
        question, scans = self.question()
        response = drill(question.digits)
        task = {"kind": "drill", "level": question.level, "digits": question.digits, "options": None}
        return self._row("drills", scans, DRILL, response, response, task)

    def _row(self, source: str, scans: list[int], prompt: str, response: str | None, answer: str, task: Row) -> Row:
        return {
            "images": [self.strips.write(scans)],
            "system": None,
            "prompt": prompt,
            "response": response,
            "answer": answer,
            "source": source,
            "task": task,
        }


def _task(question: Question) -> Row:
    return {
        "kind": question.kind,
        "level": question.level,
        "digits": question.digits,
        "options": question.options,
    }


def public_annotator(world: SimpleNamespace, place: int) -> Annotator:
    """The public annotator at row `place` of its part: its style drifts as the part goes on."""
    return Annotator(
        perception_random=world.perception_random,
        perception_systematic=world.perception_systematic,
        reasoning_random=world.reasoning_random,
        reasoning_systematic=world.reasoning_systematic,
        drift=min(1.0, 2 * world.style_drift * (place + 0.5) / world.sft_public),
    )


def make_pools(world: SimpleNamespace, seed: int, strips: Strips, scans: dict[str, list[int]]) -> dict[str, list[Row]]:
    """All pools; the training pools by `seed`, validation and test by `world_seed`."""

    def maker(pool: str) -> Maker:
        held_out = pool in ("validation", "test")
        return Maker(
            world, strips, scans[pool if held_out else "train"], f"{world.world_seed if held_out else seed}:{pool}"
        )

    base = maker("base")
    base_rows = [base.reading() for _ in range(world.base_reading)]
    base_rows += [base.plain() for _ in range(world.base_questions)]
    base_rows += [base.drill() for _ in range(world.base_drills)]
    base.rng.shuffle(base_rows)
    sft = maker("sft")
    sft_rows = [sft.row("public", public_annotator(world, place)) for place in range(world.sft_public)]
    sft_rows += [sft.row("clean", CLEAN) for _ in range(world.sft_clean)]
    sft.rng.shuffle(sft_rows)
    teacher, rlvr, validation, test = map(maker, ("teacher", "rlvr", "validation", "test"))
    pools = {
        "base": base_rows,
        "sft": sft_rows,
        "teacher": [teacher.row("teacher", CLEAN) for _ in range(world.teacher)],
        "rlvr": [rlvr.row("rlvr") for _ in range(world.rlvr)],
        "validation": [validation.row("validation") for _ in range(world.validation)],
        "test": [test.row("test") for _ in range(world.test)],
    }
    return {pool: [{"id": f"{pool}-{i:06d}", **row} for i, row in enumerate(rows)] for pool, rows in pools.items()}


def realised(rows: list[Row]) -> dict[str, Any]:
    """What demonstrations really contain: shares of rows with each mistake and with each thing right, overall and by
    kind of question."""

    def rates(part: list[Row]) -> dict[str, float]:
        mistakes = Counter(mistake for row in part for mistake in row["task"]["mistakes"])
        scores = [score(row, row["response"]) for row in part]
        defined = [one.reasoning for one in scores if one.reasoning is not None]
        return {
            "rows": len(part),
            **{mistake: round(mistakes[mistake] / len(part), 4) for mistake in sorted(mistakes)},
            "answer_right": round(sum(one.answer for one in scores) / len(part), 4),
            "perception_right": round(sum(one.perception for one in scores) / len(part), 4),
            "reasoning_right": round(sum(defined) / max(1, len(defined)), 4),
        }

    by_kind = {kind: [row for row in rows if row["task"]["kind"] == kind] for kind in KINDS}
    return {"all": rates(rows), "by_kind": {kind: rates(part) for kind, part in by_kind.items() if part}}


def write_world(world: SimpleNamespace, seed: int, out: Path) -> Row:
    """Write everything into the existing empty folder `out`; returns the summary that is also in `world.json`."""
    strips = Strips(out / "images")
    scans = split_scans(world, len(strips.labels))
    pools = make_pools(world, seed, strips, scans)
    hashes = dict(strips.hashes)
    for pool, rows in pools.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        (out / f"{pool}.jsonl").write_bytes(lines)
        hashes[f"{pool}.jsonl"] = hashlib.sha256(lines).hexdigest()
    _draw_contact_sheet(world, strips, scans["train"], out / "contact_sheet.png")
    public = [row for row in pools["sft"] if row["source"] == "public"]
    summary = {
        "kind": "digits",
        "settings": vars(world),
        "seed": seed,
        "pools": {pool: len(rows) for pool, rows in pools.items()},
        "images": len(strips.hashes),
        "scans": {name: len(numbers) for name, numbers in sorted(scans.items())},
        "scan_split_sha256": hashlib.sha256(json.dumps(scans, sort_keys=True).encode()).hexdigest(),
        "demonstrations": {
            "public": realised(public),
            "clean": realised([row for row in pools["sft"] if row["source"] == "clean"]),
            "teacher": realised(pools["teacher"]),
        },
        "fingerprint": hashlib.sha256("".join(f"{h}  {p}\n" for p, h in sorted(hashes.items())).encode()).hexdigest(),
    }
    (out / "world.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _draw_contact_sheet(world: SimpleNamespace, strips: Strips, scans: list[int], path: Path) -> None:
    """Two questions of every kind, each demonstrated by both annotators: the easy one preferably with an error of
    perception, the hard one with an error of reasoning."""
    maker = Maker(world, strips, scans, f"{world.world_seed}:contact-sheet")
    wanted = [(kind, level) for kind in KINDS for level in ("easy", "hard")]
    cards: dict[tuple[str, str], Card] = {}
    done: set[tuple[str, str]] = set()
    for _ in range(3000):
        question, shown = maker.question()
        place = (question.kind, question.level)
        public = demonstrate(question, public_annotator(world, maker.rng.randrange(world.sft_public)), maker.rng)
        error = "perception" if question.level == "easy" else "reasoning"
        as_wanted = len(public.mistakes) == 1 and public.mistakes[0].startswith(error)
        if place in done or (place in cards and not as_wanted):
            continue
        if as_wanted:
            done.add(place)
        cards[place] = Card(
            picture=strips.picture(shown),
            kind=question.kind,
            level=question.level,
            question=question.text,
            answer=question.answer,
            clean=demonstrate(question, CLEAN, maker.rng).text,
            public=public.text,
            mistakes=public.mistakes,
        )
    draw([cards[place] for place in wanted if place in cards], path)


def build(world: SimpleNamespace, seed: int, out: Path) -> Row:
    """Build the world beside `out` and rename it there, so that `out` is whole or absent.

    Raises:
        FileExistsError: `out` exists already.
    """
    with whole_folder(out) as partial:
        return write_world(world, seed, partial)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the digits world to disk.")
    parser.add_argument("--settings", type=Path, required=True, help="DigitsWorld as JSON")
    parser.add_argument("--seed", type=int, required=True, help="draws the training pools")
    parser.add_argument("--out", type=Path, required=True, help="folder to make; must not exist")
    args = parser.parse_args()
    world = SimpleNamespace(**json.loads(args.settings.read_text()))
    try:
        summary = build(world, args.seed, args.out)
    except (OSError, AttributeError) as error:
        parser.exit(1, f"cannot build the digits world: {error}\n")
    print(json.dumps({key: summary[key] for key in ("pools", "images", "fingerprint")}))


if __name__ == "__main__":
    main()
