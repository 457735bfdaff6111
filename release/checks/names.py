"""Which files a release may hold. Each file that may not be there is named by one check only, the most telling one."""

from __future__ import annotations

import re
import stat

from release.checks.view import TEXT_LIMIT, Check, Found, View
from release.folder import DATA_FILES, MODEL_FILES, TEXTS, allowed
from release.manifest import NAME, unsafe

PICKLES = re.compile(r"\.(bin|pt|pth|pkl|pickle|ckpt|joblib|npy|npz|h5|hdf5|msgpack|dill|mar|t7)$", re.IGNORECASE)
TRAINING = re.compile(
    r"(^|/)(optimizer|optim|scheduler|scaler|rng_state|random_states|training_args|trainer_state|trainer_log|"
    r"pytorch_model_fsdp|global_step\d+|zero_pp_rank|mp_rank|\w+_optim_states|events\.out\.tfevents|"
    r"(optimizer|scheduler|extra)_state|latest)[\w.-]*(/|$)",
    re.IGNORECASE,
)
CODE = re.compile(r"\.(py|pyc|pyd|so|sh|dll|exe|ipynb|js)$", re.IGNORECASE)
_FILE_LIMIT = 50 * 10**9


def place(view: View, path: str) -> str:
    """Id of the check that a file's name or kind breaks; empty for a file that may be there."""
    status = view.status[path]
    if stat.S_ISLNK(status.st_mode):
        return "symlink"
    if not stat.S_ISREG(status.st_mode):
        return "special-file"
    if status.st_nlink > view.links[status.st_dev, status.st_ino]:
        return "hard-link"
    if path == NAME:
        return ""
    if unsafe(path):
        return "file-name"
    own = (*TEXTS, *(MODEL_FILES if view.is_model else DATA_FILES))
    if allowed(path, own):
        return ""
    if TRAINING.search(path):
        return "training-state"
    if PICKLES.search(path):
        return "pickle"
    if CODE.search(path):
        return "code"
    return "hidden-file" if any(part.startswith(".") for part in path.split("/")) else "unknown-file"


def _misplaced(check: str, title: str, looks_at: str, problem: str, fix: str) -> Check:
    def run(view: View) -> Found:
        return [(path, problem) for path in view.status if place(view, path) == check]

    return Check(check, "error", title, looks_at, fix, run)


def _names(view: View) -> Found:
    return [(path, f"the name {unsafe(path)}") for path in view.status if place(view, path) == "file-name"]


def _case(view: View) -> Found:
    first: dict[str, str] = {}
    for path in view.status:
        other = first.setdefault(path.casefold(), path)
        if other != path:
            yield path, f"differs from `{other}` in upper and lower case only"


def _sizes(view: View) -> Found:
    for path in view.files:
        size = view.status[path].st_size
        header = view.weights.get(path)
        if header is not None:
            held = size - (header.spans[0].begin if header.spans else 0)
            if held > view.context.shard_bytes and len(header.spans) != 1:
                yield path, f"holds {held} bytes of tensors in one file, more than {view.context.shard_bytes}"
        elif size > (_FILE_LIMIT if path.endswith((".safetensors", ".parquet")) else TEXT_LIMIT):
            yield path, f"has {size} bytes, more than a file of its kind may have"


def _needed(view: View) -> Found:
    names = ("config.json", "tokenizer.json", "tokenizer_config.json") if view.is_model else ()
    for path in ("README.md", *names):
        if not view.has(path) and path not in view.status:
            yield path, "is missing"
    if view.is_model and not view.weights:
        yield "", "has no weights (model*.safetensors)"


def _changed(view: View) -> Found:
    """Whether the manifest is of this folder: the hashes were taken in the pass that made it."""
    files = {path: view.status[path].st_size for path in view.files if path != NAME}
    for path in sorted(files.keys() | view.manifest.files.keys()):
        known = view.manifest.files.get(path)
        if path not in files:
            yield path, "stands in the manifest and is no file of the folder"
        elif known is None or known.size != files[path]:
            yield path, "is not as the manifest has it"


_COPY = "put a copy of the file in its place"
_REMOVE = "remove it"

CHECKS = (
    _misplaced(
        "symlink", "Symbolic link", "Every name: nothing is a link, which would publish whatever it points at.",
        "is a symbolic link", _COPY,
    ),
    _misplaced(
        "special-file", "No ordinary file", "Every name: no pipe, socket or device.", "is no ordinary file", _REMOVE
    ),
    _misplaced(
        "hard-link", "Hard link to a file outside",
        "Every file: none shares its content with a file outside the folder, which could change it after hashing.",
        "is also a file outside the folder", _COPY,
    ),
    _misplaced(
        "training-state", "State of a training run",
        "Every name: no optimizer, scheduler, random state, trainer state, arguments or log of training.",
        "is state of a training run", "remove it; a release holds weights and texts",
    ),
    _misplaced(
        "pickle", "File that can run code when loaded", "Every name: no pickle or other format that is not plain data.",
        "is of a format that can run code or hold anything", "save weights as safetensors and data as JSON",
    ),
    _misplaced("code", "Code", "Every name: no program.", "is a program", "remove it; a release holds data only"),
    _misplaced(
        "hidden-file", "Hidden file", "Every name: none begins with a dot but `.eval_results/` and `.gitattributes`.",
        "is hidden", _REMOVE,
    ),
    _misplaced(
        "unknown-file", "File that no release has",
        "Every name: it is one of the known files of a model, a card or its provenance.",
        "is none of the files of a release", "remove it, or give it the name that a release has for it",
    ),
    Check(
        "file-name", "error", "Name that some systems cannot hold",
        "Every name: printable, composed Unicode (NFC), up to 255 bytes, without `\\`, `:` or spaces at an end.",
        "give the file a plain name", _names,
    ),
    Check(
        "name-case", "error", "Names that differ in case only",
        "Every pair of names: on some systems only one of the two files would be left.", "rename one of them", _case,
    ),
    Check(
        "file-size", "error", "File that is too large",
        "Weights files of 5 GB of tensors or less, texts of 64 MiB or less.",
        "assemble the folder again, which writes weights as shards", _sizes,
    ),
    Check(
        "missing-file", "error", "Needed file missing",
        "README.md, and in a model weights, config.json and its tokenizer.", "assemble the folder again", _needed,
    ),
    Check(
        "changed", "error", "Folder and manifest disagree",
        "Every file against the manifest: nothing came, went or grew since it was hashed.",
        "let nothing write to the folder, and run it again", _changed,
    ),
)  # fmt: skip
