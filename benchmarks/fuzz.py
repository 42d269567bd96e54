"""Mutated data files, matrix files and run folders: nothing but the library's own `UserError` may come out.

    python -m benchmarks.fuzz --cases 100000

Each case is made from the seed, the target and its number alone, so one that fails is made again by
`--target T --seed S --first N --cases 1`. A case that takes more than `SECONDS` counts as failed, too.
"""

import argparse
import contextlib
import gzip
import io
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from labeldist.messages import escape_controls
from labeldist.training.errors import MAX_SENTENCE, UserError

SECONDS = 20
CLASSES = ("guns", "politics", "baseball", "hockey, ice")
# What has broken a reader somewhere.
TOKENS = [
    b'"', b'""', b"'", b"\\", b'\\"', b",", b";", b"\t", b"|", b"\n", b"\r", b"\r\n", b"\n\n", b" ", b"\x00", b"\xff",
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\x1b[2J", b"\x9b", b"\\ud800", b"\\u0000",
    b"[", b"]", b"{", b"}", b":", b"[]", b"{}", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"0.5",
    b"9" * 400, b"9" * 5000, b"[" * 600, b"[" * 30_000, b'{"a":' * 600, b'"a",' * 300, b"text", b"label", b"guns",
    b"a" * 300, b"a" * 200_000, b"sep=;\n", b"PAR1", b"\x1f\x8b",
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Something to fuzz.

    Attributes:
        seeds: sound files, by name.
        read: reads a file or the folder it stands in.
    """

    seeds: dict[str, bytes]
    read: Callable[[Path], object]


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Change a file in one to four places."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(changed))
        size = min(rng.choice((1, 1, 1, 2, 4, 16, 64, 1000)), len(changed) - at)
        match rng.randrange(7):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + size] = rng.randbytes(size)
            case 2:
                del changed[at : at + size]
            case 3:
                changed[at:at] = changed[at : at + size] * rng.choice((1, 2, 50))
            case 4 | 5:
                changed[at : at + rng.choice((0, size))] = rng.choice(TOKENS)
            case 6 if rng.random() < 0.3:
                del changed[at:]
    return bytes(changed)


def data_files() -> dict[str, bytes]:
    """A small sound file of each kind."""
    import datetime

    import pyarrow
    import pyarrow.parquet

    texts = ["where is it?", 'he said "no"', "发货不慢, 很好", "late; again\tand again", "", "a\nb, c", "1", "x" * 300]
    rows = [{"text": text or "-", "label": CLASSES[i % 4], "id": i} for i, text in enumerate(texts * 4)]
    lines = "".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)).encode()

    def table(separator: str, quote: str = '"', end: str = "\n") -> bytes:
        def field(value: object) -> str:
            text = str(value)
            if not quote:
                return text.replace(separator, " ").replace("\n", " ")
            return quote + text.replace(quote, quote * 2) + quote if set(text) & {separator, quote, "\n"} else text

        body = [["text", "label", "id"], *([row["text"], row["label"], row["id"]] for row in rows)]
        return "".join(separator.join(map(field, row)) + end for row in body).encode()

    buffer = io.BytesIO()
    dates = [datetime.date(2020, 1, 1 + i % 28) for i in range(len(rows))]
    parquet = pyarrow.Table.from_pylist(rows)
    parquet = parquet.append_column("day", pyarrow.array(dates)).append_column(
        "tags", pyarrow.array([["a"]] * len(rows))
    )
    parquet = parquet.set_column(1, "label", parquet["label"].dictionary_encode())
    pyarrow.parquet.write_table(parquet, buffer, row_group_size=8)
    return {
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines, mtime=0),
        "a.csv": table(","),
        "semicolons.csv": table(";"),
        "old.csv": table(",", end="\r"),
        "a.csv.gz": gzip.compress(table(","), mtime=0),
        "a.tsv": table("\t"),
        "bare.tsv": table("\t", quote=""),
        "a.txt": "".join(row["text"].replace("\n", " ") + "\n" for row in rows).encode(),
        "a.parquet": buffer.getvalue(),
    }


def read_data(path: Path) -> None:
    """Read a data file as training, evaluation and prediction do."""
    from labeldist.training.data.corpus import load_corpus, read_split
    from labeldist.training.data.readers import read_texts

    uses: list[Callable[[], object]] = [lambda: list(read_texts(path))]
    if path.suffix != ".txt":
        uses += [lambda: load_corpus([str(path)]), lambda: read_split(path, CLASSES)]
    for use in uses:
        with _own_error():
            use()


def matrix_files() -> dict[str, bytes]:
    """A small sound matrix file of each kind."""
    matrix = [[1, 2.5, 3, 1], [2, 1, 1, 1], [1, 1, 1, 5], [0, 1, 1, 1]]
    contents = {
        "pairs": {"pairs": [["guns", "politics"], ["baseball", "hockey, ice", 3.5]], "max_distance": 4},
        "groups": {"groups": {"sport": ["baseball", "hockey, ice"], "talk": ["guns", "politics"]}},
        "hierarchy": {
            "hierarchy": {"sport": {"ball": ["baseball"], "ice": "hockey, ice"}, "talk": ["guns", "politics"]}
        },
        "matrix": {"matrix": matrix, "class_names": list(CLASSES)},
        "ldm": {"class_names": list(CLASSES), "source": "confusions", "matrix": matrix, "history": []},
    }
    files = {f"{name}.json": json.dumps(content).encode() for name, content in contents.items()}
    for suffix, separator in (("csv", ","), ("tsv", "\t")):
        table = [["", *CLASSES], *([name, *map(str, row)] for name, row in zip(CLASSES, matrix, strict=True))]
        files[f"a.{suffix}"] = "".join(separator.join(f'"{x}"' for x in row) + "\n" for row in table).encode()
    return files


def read_matrix(path: Path) -> None:
    """Read a matrix file."""
    from labeldist.training.matrix_file import read_matrix_file

    with _own_error():
        read_matrix_file(path, CLASSES)


def run_files(folder: Path) -> dict[str, bytes]:
    """The files of a finished run, by their path in the folder; pictures and predictions are not read again."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".png", ".jsonl")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def read_run(folder: Path) -> None:
    """Use a run folder from the command line, which ends with 0, or with one sentence and 2."""
    from labeldist.cli import main

    for command in (["predict", str(folder), "where is it?"], ["train", "--resume", str(folder)]):
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = main(command)
        if code not in (0, 2):
            raise AssertionError(f"exit code {code} of {command[0]}: {said.getvalue()[-500:]}")


@contextlib.contextmanager
def _own_error() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        sentence = str(error)
        if escape_controls(sentence) != sentence:
            raise AssertionError(f"a control character in {sentence!r}") from error
        if not 0 < len(sentence) <= MAX_SENTENCE:
            raise AssertionError(f"a sentence of {len(sentence)} characters") from error


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def fuzz(
    name: str, target: Target, *, cases: int, first: int = 0, seed: int = 0, seconds: float | None = None
) -> list[int]:
    """Try mutated files; return the numbers of the cases that failed, and print each one's traceback.

    Args:
        name: of the target, part of the seed.
        target: what is read.
        cases: how many.
        first: number of the first one.
        seed: of the mutations.
        seconds: stop after so many, if given.
    """
    failed: list[int] = []
    started = time.monotonic()
    # Only here may an alarm be set: not on Windows, not in a thread.
    signal.signal(signal.SIGALRM, _too_slow)
    with tempfile.TemporaryDirectory(prefix="labeldist-fuzz-") as scratch:
        folder = Path(scratch)
        is_folder = target.read is read_run
        if is_folder:
            _write(folder, target.seeds)
        for number in range(first, first + cases):
            if seconds is not None and time.monotonic() - started > seconds:
                break
            rng = random.Random(f"{name} {seed} {number}")
            file = rng.choice(list(target.seeds))
            content = target.seeds[file]
            # Half of the archives are sound ones of a mutated text.
            if file.endswith(".gz") and rng.random() < 0.5:
                content = gzip.compress(mutate(gzip.decompress(content), rng), 1, mtime=0)
            else:
                content = mutate(content, rng)
            path = folder / file
            path.write_bytes(content)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                target.read(folder if is_folder else path)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                failed.append(number)
                print(f"\n{name}, seed {seed}, case {number} ({file}):", file=sys.stderr)
                traceback.print_exception(error, limit=-6)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if is_folder:
                path.write_bytes(target.seeds[file])
            else:
                path.unlink()
    return failed


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _make_run(folder: Path) -> Path:
    """Train a small run on the demo."""
    from labeldist.cli import main

    options = ["--encoder", "textcnn", "--epochs", "1", "--shots", "4", "--embedding-dim", "8", "--projection-dim", "8"]
    assert main(["train", "--data", "demo", "--objective", "adaptive", *options, "--output", str(folder / "run")]) == 0
    return folder / "run"


def targets(names: list[str], run: Path | None = None) -> dict[str, Target]:
    """The targets of these names; a run folder is trained unless given."""
    made: dict[str, Target] = {}
    if "data" in names:
        made["data"] = Target(data_files(), read_data)
    if "matrix" in names:
        made["matrix"] = Target(matrix_files(), read_matrix)
    if "run" in names:
        with tempfile.TemporaryDirectory(prefix="labeldist-fuzz-") as scratch:
            made["run"] = Target(run_files(run or _make_run(Path(scratch))), read_run)
    return made


def main() -> int:
    """Fuzz from the command line; exit code 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", choices=("data", "matrix", "run"), default=["data", "matrix", "run"])
    parser.add_argument("--cases", type=int, default=100_000, help="per target")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="a finished run folder; a small one is trained unless given")
    arguments = parser.parse_args()
    failures = 0
    for name, target in targets(arguments.target, arguments.run).items():
        started = time.monotonic()
        failed = fuzz(name, target, cases=arguments.cases, first=arguments.first, seed=arguments.seed)
        failures += len(failed)
        seconds = time.monotonic() - started
        print(f"{name}: {arguments.cases} cases, {len(failed)} failed, {seconds:.0f} s {failed[:20] or ''}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
