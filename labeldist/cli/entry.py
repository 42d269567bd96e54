"""From arguments to an exit code: whatever happens ends in an answer or in one sentence."""

import contextlib
import errno
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from labeldist.messages import cut, escape_controls

__all__ = ["main"]

SPIN_COUNT = "3000"
"""Turns for which a thread of GNU OpenMP waits for the others before it sleeps.

Its default, 300,000 turns, takes milliseconds: beside a busy process the waiting threads then use the cores that the
others need. `benchmarks.busy_training`: with 3,000 a training takes about as long alone, and a small part of
the time beside a busy process.
"""

MAX_SENTENCE = 2000
"""Characters of one error sentence."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments; the process's own if `None`.

    Returns:
        Exit code: 0, 2 for a user's mistake, 130 when interrupted.
    """
    command: Any = None
    if "OMP_WAIT_POLICY" not in os.environ:
        # Before PyTorch is imported, whose OpenMP reads it.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        with _interrupts_end_imports(lambda: _say_interrupted(command)):
            for stream in (sys.stdout, sys.stderr):
                # A terminal that cannot show a character gets its code, not a traceback.
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace")
            argv = sys.argv[1:] if argv is None else argv
            if argv == ["--version"]:
                from labeldist import __version__

                print(f"labeldist {__version__}")
                return 0
            command = _parsed(argv)
            return _carried_out(command, _parsed_with_few_labels(command, argv))
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is left to say, not even at exit.
        _forget_output()
        return 0
    except KeyboardInterrupt:
        _say_interrupted(command)
        return 130


def _speaks() -> bool:
    """Whether this is the one of several processes, started by a launcher such as torchrun, that speaks."""
    return os.environ.get("RANK", "0") == "0"


def _parsed(argv: list[str]) -> Any:
    try:
        import tyro
    except ImportError:
        cure = "pip install 'labeldist[train]', or 'labeldist[report]' for reports alone"
        print(f"labeldist: error: the command line needs more packages: {cure}", file=sys.stderr)
        raise SystemExit(2) from None
    from labeldist.cli.commands import COMMANDS

    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="labeldist",
        description="Train text classifiers whose classes are easily confused, and see what they confuse.",
        args=argv or ["--help"],
        config=_configuration(),
    )


def _configuration() -> tuple[Any, ...]:
    import tyro

    return (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)


def _parsed_with_few_labels(command: Any, argv: list[str]) -> Any:
    """The same arguments with the defaults of the recipe of few labels: what was given is equal in both."""
    from labeldist.cli.commands import with_few_labels

    defaults = with_few_labels(type(command))
    if defaults is None:
        return None
    import tyro

    return tyro.cli(type(command), default=defaults, args=argv[1:], config=_configuration())


def _carried_out(command: Any, under_few_labels: Any) -> int:
    from labeldist.training.errors import LostProcessError, UserError

    try:
        with _quiet(verbose=command.verbose):
            from labeldist.cli.actions import carry_out

            carry_out(command, under_few_labels)
            # Here, where a failure can still be told: at exit it cannot.
            sys.stdout.flush()
    except UserError as error:
        if _speaks() or isinstance(error, LostProcessError):
            return _refuse(str(error))
        return 2
    except ImportError as error:
        missing = f"the package {error.name} is missing" if error.name else f"a package is missing: {error}"
        cure = ". Install it with: pip install 'labeldist[train]'"
        return _refuse(str(error) if "labeldist[" in str(error) else missing.rstrip(".") + cure)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _forget_output()
        return _refuse(f"standard output cannot be written: {os.strerror(error.errno)}.")
    return 0


def _refuse(sentence: str) -> int:
    """Print a user's mistake, on one line whatever another library wrote, and return the exit code.

    A terminal gets lines of its width, broken between words.
    """
    line = f"labeldist: error: {cut(escape_controls(' '.join(sentence.split())), MAX_SENTENCE)}"
    if sys.stderr.isatty():
        from labeldist.training.output.text_layout import wrap_for

        line = wrap_for(sys.stderr, line)
    print(line, file=sys.stderr)
    return 2


@contextlib.contextmanager
def _interrupts_end_imports(say: Callable[[], None]) -> Iterator[None]:
    """Within it, Ctrl-C in the middle of an import ends the process at once.

    As an exception it would pass through the code of other packages: torch, for one, takes an interrupted import of
    numpy for a missing numpy, and goes on with a module of which a half is there.
    """
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not is_ours:
        yield
        return

    def end_or_raise(number: int, frame: FrameType | None) -> None:
        at: FrameType | None = frame
        while at is not None:
            if at.f_code.co_filename.startswith("<frozen importlib"):
                say()
                sys.stderr.flush()
                os._exit(130)
            at = at.f_back
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, end_or_raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _say_interrupted(command: Any) -> None:
    if not _speaks():
        return
    hint = ""
    with contextlib.suppress(Exception):
        hint = "" if command is None else command.how_to_go_on()
    print(f"\nlabeldist: interrupted.{hint}", file=sys.stderr)


def _forget_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _quiet(*, verbose: bool) -> Iterator[None]:
    """Keep other libraries' log lines and warnings to themselves, unless asked for."""
    if verbose:
        yield
        return
    # The hub's and tokenizers' own notices; set before they are imported.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger().setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
