"""Mutated files of every kind end in the library's own error, if in any."""

import signal

import pytest

from benchmarks.fuzz import Target, fuzz, targets

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="the fuzzer stops slow cases by an alarm")


@pytest.mark.parametrize("name", ["data", "matrix"])
def test_mutated_files_are_read_or_refused_in_one_sentence(name):
    assert fuzz(name, targets([name])[name], cases=100_000, seconds=5) == []


def test_the_fuzzer_finds_a_reader_that_raises_anything_else():
    def read(path):
        path.read_bytes().decode("ascii")

    assert fuzz("ascii", Target({"a.txt": b"some letters"}, read), cases=50)


def test_a_case_is_made_again_by_its_number():
    seen: list[bytes] = []
    target = Target({"a.txt": b"some letters", "b.txt": b"others"}, lambda path: seen.append(path.read_bytes()))
    fuzz("any", target, cases=20)
    fuzz("any", target, cases=1, first=13)
    assert seen[-1] == seen[13]
    assert len(set(seen)) > 15
