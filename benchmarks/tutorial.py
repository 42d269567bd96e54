"""Run the tutorial's code as its page shows it, and keep what it prints.

LABELDIST_DATA=FOLDER python -m benchmarks.tutorial    # FOLDER holds trec/train.jsonl.gz and trec/test.jsonl.gz

A test holds the page to the record: whoever changes the code of the page runs this again.
"""

import argparse
import io
import json
import os
import re
import tempfile
import time
from contextlib import chdir, redirect_stdout
from pathlib import Path

from benchmarks.machine import current_commit, versions_of
from labeldist.training.machine import describe_machine

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
RECORD = ROOT / "benchmarks" / "results" / "tutorial" / "trec.json"


def blocks() -> list[str]:
    """The code that the page shows, in order."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def output(number: int) -> str:
    """What a block printed when it was recorded."""
    return json.loads(RECORD.read_text(encoding="utf-8"))["blocks"][number]["output"]


def facts() -> str:
    """Where and how the record was made."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    return (
        f"{record['machine']}, torch {record['versions']['torch']}, commit {record['commit']}, "
        f"{record['seconds'] / 60:.0f} minutes; `python -m benchmarks.tutorial`."
    )


def main() -> None:
    """Run the blocks in one namespace and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("LABELDIST_DATA"), help="folder with trec; $LABELDIST_DATA")
    data = parser.parse_args().data
    if data is None:
        parser.error("give --data or set LABELDIST_DATA to the folder that holds trec")
    corpus, namespace, recorded, start = Path(data, "trec").resolve(), {"__name__": "__main__"}, [], time.time()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path("trec").symlink_to(corpus)
        for code in blocks():
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(code, PAGE.name, "exec"), namespace)
            recorded.append({"code": code, "output": printed.getvalue().rstrip("\n")})
            print(recorded[-1]["output"], flush=True)
    record = {
        "machine": describe_machine(),
        "versions": versions_of("torch", "transformers"),
        "commit": current_commit(),
        "seconds": round(time.time() - start),
        "blocks": recorded,
    }
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
