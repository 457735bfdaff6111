"""lmms-eval's tasks, loaded for a cell: from our definitions only, with the data set that the job names."""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from lmms_eval.api.task import Task
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config
from tenacity import RetryError

from integrations.common.files import hash_json
from integrations.common.rows import read_rows
from integrations.errors import BadInput, PrismError, StageFailed

METRIC = "prism"
"""The entry of `process_results` that holds the verdict."""
OWN_DATA = "pool"
"""`dataset_path` of a task that has no published data set."""

_DATASET_ERRORS = (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError, RetryError, AssertionError)
_HASHED_TOGETHER = 16


class Loaded:
    """A task with its documents.

    Args:
        task: of lmms-eval.
        name: its name.
        source: what its data come from, for messages.
        manager: that loaded it; lmms-eval indexes all its tasks wherever it is given none.
    """

    def __init__(self, task: Task, name: str, source: str, manager: TaskManager) -> None:
        self.task = task
        self.manager = manager
        self.name = name
        self.source = source
        self.dataset_hash = hash_documents(task.eval_docs)
        self._ids: list[str] = []

    def ids(self, limit: int | None) -> list[str]:
        """Item ids of the first `limit` documents, in order.

        Raises:
            StageFailed: an id stands there twice, or the task cannot score an empty response.
        """
        docs = self.task.eval_docs_no_media
        count = len(docs) if limit is None else min(limit, len(docs))
        for doc_id in range(len(self._ids), count):
            self._ids.append(self.score(docs[doc_id], "")["item_id"])
        if len(set(self._ids)) < len(self._ids):
            twice = next(item for item in self._ids if self._ids.count(item) > 1)
            raise StageFailed(f"task {self.name}: item id `{twice}` stands there twice", f"check {self.source}")
        return self._ids[:count]

    def score(self, doc: Any, response: str) -> dict[str, Any]:
        """The verdict on one response."""
        try:
            verdict: dict[str, Any] = self.task.process_results(doc, [response])[METRIC]
        except RetryError as error:
            raise StageFailed(
                f"task {self.name} cannot score a response: {cause(error)!r}", "look at the task's scoring function"
            ) from error
        return verdict


class Library:
    """Loads each task once.

    Args:
        folders: of task definitions; lmms-eval's own 1,900 are not read.
        scratch: for what reading a local data set leaves.
    """

    def __init__(self, folders: Sequence[Path], scratch: Path) -> None:
        self._manager = TaskManager("ERROR", [str(folder) for folder in folders], include_defaults=False)
        self._scratch = scratch
        self._loaded: dict[tuple[str, str | None, str], Loaded | PrismError] = {}

    def load(self, name: str, dataset: str | None, style: str) -> Loaded:
        """The task with its documents.

        Args:
            dataset: a local file or folder; None: what the task names.
            style: of the prompt, `format` or `native`.

        Raises:
            BadInput: no such task, or its data set is not there.
        """
        key = (name, dataset, style)
        if key not in self._loaded:
            try:
                self._loaded[key] = self._load(name, dataset, style)
            except PrismError as error:
                self._loaded[key] = error
        found = self._loaded[key]
        if isinstance(found, PrismError):
            raise found
        return found

    def _load(self, name: str, dataset: str | None, style: str) -> Loaded:
        if name not in self._manager.all_subtasks:
            raise BadInput(f"there is no task `{name}`", f"there are {', '.join(self._manager.all_subtasks)}")
        config = load_yaml_config(self._manager.task_index[name]["yaml_path"], mode="simple")
        source = dataset or config["dataset_path"]
        if source == OWN_DATA:
            raise BadInput(f"task {name} has no data set of its own", "name a run or a pool whose items are asked")
        given = {"task": name, **(local_source(Path(dataset), config, self._scratch) if dataset else {})}
        try:
            [task] = self._manager.load_task_or_group([given], "chat").values()
        except _DATASET_ERRORS as error:
            told = " ".join(str(cause(error)).split())[:400]
            raise BadInput(
                f"the data set {source} of task {name} cannot be loaded: {told}",
                "check the network and the Hub's access rules of the data set, or name a local copy of it",
            ) from error
        for function in ("doc_to_messages", "process_results"):
            with_style = task.get_config(function)
            if "style" in inspect.signature(with_style).parameters:
                task.set_config(function, functools.partial(with_style, style=style))
        return Loaded(task, name, source, self._manager)


def cause(error: BaseException) -> BaseException:
    """What went wrong in the last of several tries."""
    if isinstance(error, RetryError):
        return error.last_attempt.exception() or error
    return error


def local_source(path: Path, config: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """The task's settings that make it read a local file or folder.

    Raises:
        BadInput: nothing is there, or nothing that can be read.
    """
    split = config.get("test_split") or config.get("validation_split") or "test"
    if not path.exists():
        raise BadInput(f"the data set {path} of task {config['task']} does not exist", "check the path")
    if path.suffix == ".jsonl":
        return {"dataset_path": str(save_pool(path, split, scratch)), "dataset_kwargs": {"load_from_disk": True}}
    reading: dict[str, Any] = {"dataset_name": None, "dataset_kwargs": {"cache_dir": str(scratch / "datasets")}}
    if path.suffix == ".parquet":
        reading["dataset_kwargs"]["data_files"] = {split: str(path)}
        return {**reading, "dataset_path": "parquet"}
    if not path.is_dir():
        raise BadInput(f"{path} is not a data set", "give a pool (.jsonl), a .parquet file or a folder")
    name = config.get("dataset_name")
    if name and (path / name).is_dir():
        return {**reading, "dataset_path": str(path / name)}
    if name and (path / "README.md").is_file():  # where configurations are declared
        reading["dataset_name"] = name
    return {**reading, "dataset_path": str(path)}


def save_pool(path: Path, split: str, scratch: Path) -> Path:
    """A pool of rows (`integrations.common.rows`) as a data set with its images' bytes in it.

    Columns: id, system, prompt, answer; images with `bytes` and `path`; and `task` as JSON.

    Raises:
        BadInput: a row or an image cannot be read.
    """
    documents = []
    for row in read_rows(path):
        images = []
        for name in row["images"]:
            try:
                images.append({"bytes": (path.parent / name).read_bytes(), "path": name})
            except OSError as error:
                raise BadInput(f"{path}: image {name} of row {row['id']}: {error.strerror}", "make it again") from error
        document = {"id": row["id"], "images": images, "system": row.get("system"), "prompt": row["prompt"]}
        documents.append({**document, "answer": row["answer"], "task": json.dumps(row.get("task"), sort_keys=True)})
    if not documents:
        raise BadInput(f"{path} holds no rows", "evaluate a pool that has some")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = [(name, pa.string()) for name in ("id", "system", "prompt", "answer", "task")]
    table = pa.Table.from_pylist(documents, schema=pa.schema([*texts, ("images", pa.list_(image))]))
    folder = scratch / f"pool-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}-{split}"
    datasets.DatasetDict({split: datasets.Dataset(table)}).save_to_disk(str(folder))
    return folder


def hash_documents(docs: datasets.Dataset) -> str:
    """sha256 over the documents in order: their values, and the bytes of their images whatever file held them."""
    digest = hashlib.sha256()
    stored = docs.with_format("arrow")
    for start in range(0, len(docs), _HASHED_TOGETHER):
        for document in stored[start : start + _HASHED_TOGETHER].to_pylist():
            digest.update(hash_json(_canonical(document)).encode())
    return digest.hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {"bytes", "path"}:  # an image as stored: inside the data, or as a file beside it
            data = value["bytes"] if value["bytes"] is not None else value["path"] and Path(value["path"]).read_bytes()
            return _canonical(data)
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
