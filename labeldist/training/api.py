"""Training from Python: `train`, `compare` and `load`, for texts in memory or in files.

The command line calls `carry_out_run` and `carry_out_comparison`, too.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from labeldist.class_names import look_alikes
from labeldist.training import processes
from labeldist.training.arguments import FindSource, found, in_python, plain, says_it_in_python, settings_of
from labeldist.training.data.corpus import Corpus, RawCorpus
from labeldist.training.data.label_texts import LabelTexts, with_label_texts
from labeldist.training.data.names import data_name
from labeldist.training.errors import UserError
from labeldist.training.label_distances import draw_folds, needs_counting
from labeldist.training.measures import Measure
from labeldist.training.objectives import OBJECTIVES, Objective, spec_of, takes_given_matrix
from labeldist.training.output.progress import Progress
from labeldist.training.recipes import RECIPES, ByRecipe, Recipe
from labeldist.training.record_json import typed
from labeldist.training.relations import check_relation_is_given
from labeldist.training.results import FinishedComparison, TemporaryFolder, TrainedRun
from labeldist.training.run import RunOptions, begin_processes, check_fingerprint, resume_run, start_run
from labeldist.training.run_data import draw_splits, read_rows
from labeldist.training.run_folder import RunFolder, RunSpec, check_new_folder, check_same_settings
from labeldist.training.seeding import global_state_restored
from labeldist.training.study.compare import CompareSpec, check_folder, check_spec
from labeldist.training.study.compare import compare as compare_runs
from labeldist.training.study.results import Comparison

__all__ = ["compare", "load", "train"]

Say = Callable[[str], None]
Spec = TypeVar("Spec", RunSpec, CompareSpec)


@says_it_in_python
def train(
    data: Any,
    labels: Sequence[Any] | None = None,
    *,
    test: Any = None,
    validation: Any = None,
    objective: Objective | None = None,
    label_texts: str | Path | LabelTexts | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    resume: bool = False,
    report: bool = True,
    progress: bool | None = None,
    say: Say | None = None,
    **settings: Any,
) -> TrainedRun:
    """Train a text classifier, and measure which classes it confuses.

    With the same seed, the results equal those of `labeldist train`. The random states of the caller do not change.

    Args:
        data: the texts: a list of strings, with `labels`; a pandas `DataFrame` or a `datasets.Dataset`, whose columns
            are found by their names or given as `text_column` and `label_column`; a `datasets.DatasetDict` or another
            mapping with `"train"`, `"test"` and `"validation"`; or a name as on the command line: `"demo"`, a folder,
            a file, a list of train, test and validation files, or the id of a data set on the hub.
        labels: class of each text, if `data` is a list: strings, integers or booleans.
        test: the test rows: a pair `(texts, labels)`, a data frame or a data set; a file if `data` is a file. `None`
            draws a fifth of the rows.
        validation: the rows for early stopping and confusion counts, in the same form as `test`. `None` draws a tenth
            of the remaining rows, or none with few labels (`validation_fraction`).
        objective: `"ce"`, `"ce-two-views"`, `"contrastive"`, `"uniform"`, `"static"`, `"adaptive"`, `"near"`, `"far"`,
            `"graded"`, `"levels"`, `"soft-labels"`, `"margin"`, `"far-permuted"`, `"graded-permuted"`, `"logistic"`,
            `"logistic-label-texts"`, `"centroid"` or `"centroid-label-texts"`; see `labeldist train --help`. `None`
            uses `"adaptive"`, or `"contrastive"` with few labels.
        label_texts: additional training rows that say what each class is: `"names"` (the class names as words), a
            mapping from class names to one or several sentences, a file with such a mapping, or `"none"`. `None` uses
            `"none"`, or `"names"` with few labels.
        seed: determines the split, the drawn shots, the initial weights and the order of the rows; from 0 to
            2**32 - 1.
        output: the run folder: new or empty. `None` uses a temporary folder, which is deleted together with the
            returned object; `TrainedRun.save` copies it.
        resume: continue an interrupted run in `output`, if there is one; data and settings must be the same. A
            finished run is returned as it is.
        report: draw pictures and write report.html into the run folder, which takes seconds. `TrainedRun.report` makes
            the page later, without the map of the embeddings and the most similar training texts.
        progress: draw a progress bar; `None` draws one if standard error is a terminal.
        say: called with each important message, for example `print`.
        **settings: the flags of the command line, with underscores: `encoder="minilm"`, `epochs=5`,
            `max_distance=3.0`, `recipe="few-labels"`, ...

    Returns:
        The finished run.

    Raises:
        TypeError: if a setting is unknown (the message suggests the nearest name) or has a wrong type.
        labeldist.training.errors.UserError: if a value is out of range, the data cannot be used, or `output` exists
            and is not empty; with `resume`, if it holds a run with other data or settings.

    Examples:
        >>> texts = ["is it fast?", "it is fast", "is it slow?", "it is slow"] * 5
        >>> kinds = ["question", "statement"] * 10
        >>> run = train(texts, kinds, objective="ce", epochs=1, embedding_dim=8)
        >>> run.class_names
        ('question', 'statement')
        >>> run.predict("is it?")[0]["label"] in run.class_names
        True
    """
    _check_objectives(*() if objective is None else (objective,))
    find, names = found(data, labels, test, validation)
    texts = _as_setting(label_texts, settings)
    seed = typed(int, plain(seed), "seed")

    def under(recipe: Recipe) -> RunSpec:
        return RunSpec(settings_of(names, settings, recipe.settings), objective or recipe.objective, seed)

    wanted = ByRecipe(under(RECIPES["standard"]), under(RECIPES["few-labels"]))
    trusts = wanted.standard.settings.model.trust_remote_code
    options = RunOptions(
        progress=Progress(bar=_shows(progress)), report=typed(bool, report, "report"), say=_saying(say), note=_nothing
    )
    with _folder_for(output) as (folder, temporary), global_state_restored():
        if resume and output is not None and RunFolder(folder).is_begun:
            go_on_with_run(wanted, find, folder, options, texts)
        else:
            carry_out_run(wanted, find, lambda spec: folder, options, texts)
        return TrainedRun(folder, temporary=temporary, trust_remote_code=trusts)


@says_it_in_python
def compare(
    data: Any,
    labels: Sequence[Any] | None = None,
    *,
    test: Any = None,
    validation: Any = None,
    objectives: Sequence[Objective] | None = None,
    label_texts: str | Path | LabelTexts | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    margin: float = 0.005,
    measure: Measure = "accuracy",
    jobs: int = 1,
    output: str | Path | None = None,
    progress: bool | None = None,
    say: Say | None = None,
    **settings: Any,
) -> FinishedComparison:
    """Find out whether label distance helps on your data: train each objective with each seed, on the same splits.

    Args:
        data: as in `train`.
        labels: as in `train`.
        test: as in `train`.
        validation: as in `train`.
        objectives: at least two objectives; `None` uses those of the recipe.
        label_texts: as in `train`.
        seeds: seeds of the runs. All objectives with the same seed have the same split, shots and initial weights.
        margin: the smallest gain worth having: a fraction in (0, 1) for scores, or a number of steps or cost units for
            `"mean-absolute-error"` and `"expected-cost"`.
        measure: the measure that the verdict compares: `"accuracy"`, `"macro-f1"`, `"mean-absolute-error"` (needs
            `order`), `"expected-cost"` (needs `costs`), `"graded-ndcg"` (needs `order`, `relation_file`, `hierarchy` or
            `hierarchy_separator`) or `"group-map"` (needs one of the last three).
        jobs: number of runs at a time, >= 1. Above 1 the runs are divided among processes, which import the calling
            script: put the call below `if __name__ == "__main__":`.
        output: the folder of the comparison. A call with the same settings continues an interrupted comparison. `None`
            uses a temporary folder, which is deleted together with the returned object.
        progress: as in `train`.
        say: called with a sentence for each finished run.
        **settings: as in `train`.

    Returns:
        The finished comparison.

    Raises:
        TypeError: as in `train`.
        labeldist.training.errors.UserError: as in `train`.

    Examples:
        >>> texts = ["is it fast?", "it is fast", "is it slow?", "it is slow"] * 5
        >>> kinds = ["question", "statement"] * 10
        >>> found = compare(texts, kinds, objectives=["ce", "contrastive"], seeds=[0], epochs=1, embedding_dim=8)
        >>> list(found.accuracy)
        ['ce', 'contrastive']
    """
    _check_objectives(*(objectives or ()))
    find, names = found(data, labels, test, validation)
    texts = _as_setting(label_texts, settings)
    if not isinstance(seeds, Iterable):
        raise TypeError(f"seeds must be a list of whole numbers, got {seeds!r}.")
    all_seeds = typed(tuple[int, ...], [plain(seed) for seed in seeds], "seeds")
    least_gain = typed(float, plain(margin), "margin")

    def under(recipe: Recipe) -> CompareSpec:
        compared = recipe.objectives if objectives is None else tuple(objectives)
        return CompareSpec(settings_of(names, settings, recipe.settings), compared, all_seeds, least_gain, measure)

    wanted = ByRecipe(under(RECIPES["standard"]), under(RECIPES["few-labels"]))
    with _folder_for(output) as (folder, temporary), global_state_restored():
        comparison = carry_out_comparison(
            wanted,
            find,
            folder,
            jobs=jobs,
            show_progress=_shows(progress),
            say=_saying(say),
            label_texts=texts,
        )
        trusts = wanted.standard.settings.model.trust_remote_code
        return FinishedComparison(folder, comparison, temporary=temporary, trust_remote_code=trusts)


@says_it_in_python
def load(run: str | Path, *, device: str = "auto", trust_remote_code: bool = False) -> TrainedRun:
    """Load a finished run from its folder. The folder may have been moved.

    Args:
        run: the folder that `train` or `labeldist train` wrote.
        device: `"auto"`, `"cpu"` or `"cuda"`; `"auto"` uses a GPU if there is one.
        trust_remote_code: whether code that comes with the run's encoder may run; needed if the run was trained with
            it. Code in the run folder never runs.

    Raises:
        TypeError: if `device` is another word. `CUDA_VISIBLE_DEVICES` chooses among several GPUs.
        labeldist.training.errors.UserError: if the folder is not a run folder, or its run is not finished.

    Examples:
        >>> load("nowhere")
        Traceback (most recent call last):
        ...
        labeldist.training.errors.UserError: nowhere is no run folder of labeldist: it has no config.json.
    """
    device = typed(Literal["auto", "cpu", "cuda"], device, "device")
    RunFolder(Path(run)).read_finished()
    return TrainedRun(Path(run), device=device, trust_remote_code=trust_remote_code)


def check_matrix_is_used(spec: RunSpec) -> None:
    """Raise `UserError` if pairs or a matrix file are given with an objective that uses none.

    They would be ignored silently. An objective without the relation that it needs is an error, too.
    """
    matrix = spec.settings.matrix
    if not takes_given_matrix(spec.objective) and (matrix.confusable or matrix.matrix_file):
        takers = " or ".join(filter(takes_given_matrix, OBJECTIVES))
        raise UserError(
            f"--confusable and --matrix-file belong to --objective {takers}, got --objective {spec.objective}."
        )
    check_relation_is_given(spec.objective, spec.settings)


def carry_out_run(
    wanted: ByRecipe[RunSpec],
    find: FindSource,
    folder_of: Callable[[RunSpec], Path],
    options: RunOptions,
    label_texts: LabelTexts | None = None,
) -> None:
    """Read the data and carry out a run in a new folder. Settings are checked before the data are read.

    Args:
        wanted: the run with each recipe; with the recipe `auto` the number of labels selects one.
        find: finds the data.
        folder_of: returns the folder of a run.
        options: options of this execution.
        label_texts: label texts that were given as a mapping.

    Raises:
        UserError: see `labeldist.training.run.start_run`.
    """
    wanted = _without_unused_texts(wanted)
    known = wanted.decided

    def check(spec: RunSpec) -> None:
        begin_processes(spec)
        check_matrix_is_used(spec)

    check(known or wanted.standard)
    folders = {folder_of(spec) for spec in ([known] if known else [wanted.standard, wanted.few()])}
    if len(folders) == 1:
        folder = folders.pop()
        processes.on_main(lambda: check_new_folder(folder))
    raw = processes.on_all(lambda: read_rows(find(), wanted.standard.settings.data))
    spec = _chosen(wanted, raw, options.say)
    if known is None:
        check(spec)
    data = spec.settings.data

    def draw() -> Corpus:
        return draw_splits(with_label_texts(raw, data, label_texts), data, spec.seed)

    start_run(spec, processes.on_all(draw), folder_of(spec), options)


def _without_unused_texts(wanted: ByRecipe[RunSpec]) -> ByRecipe[RunSpec]:
    """Drop the default label texts if the objective uses none; raise `UserError` if the user asked for some."""
    objective = wanted.few_labels.objective
    spec = OBJECTIVES[objective]
    if spec.frozen_head is None or spec.label_texts:
        return wanted
    if wanted.standard.settings.data.label_texts != "none":
        raise UserError(
            f"--label-texts belongs to objectives that train on them, got --objective {objective}. Use "
            f"{objective}-label-texts."
        )
    return _without_label_texts(wanted)


def _without_label_texts(wanted: ByRecipe[Spec]) -> ByRecipe[Spec]:
    few = wanted.few_labels.settings
    few = replace(few, data=replace(few.data, label_texts="none"))
    return replace(wanted, few_labels=replace(wanted.few_labels, settings=few))


def _chosen(wanted: ByRecipe[Spec], raw: RawCorpus, say: Say) -> Spec:
    """What is wanted under the recipe that these data ask for; said where the data decided."""
    asked = wanted.standard.settings
    # Names that differ in case alone are no label texts, and a default must not fail.
    if asked.data.label_texts == "none" and look_alikes(raw.class_names):
        wanted = _without_label_texts(wanted)
    labels = raw.labels_per_class(asked.data.shots)
    spec = wanted.chosen(
        labels,
        len(raw.class_names),
        num_coarse=0 if raw.coarse is None else len(raw.coarse.table),
        num_processes=processes.num_started(),
    )
    if asked.optim.recipe == "auto" and spec.settings.optim.recipe == "few-labels":
        texts = spec.settings.data.label_texts
        kinds = {"names": "with the class names as label texts", "none": "without label texts"}
        say(
            f"{labels:.3g} labels per class: recipe few-labels, {kinds.get(texts, 'with the label texts given')} "
            "(--recipe standard: the defaults for many labels"
            f"{'' if texts == 'none' else '; --label-texts none: no label texts'})."
        )
    return spec


def go_on_with_run(
    wanted: ByRecipe[RunSpec],
    find: FindSource,
    folder: Path,
    options: RunOptions,
    label_texts: LabelTexts | None = None,
) -> None:
    """Continue a run that was begun with the same data and settings. For a finished run, only check them.

    Arguments as in `carry_out_run`.

    Raises:
        UserError: if data or settings differ; or as in `labeldist.training.run.resume_run`.
    """
    trusts = wanted.standard.settings.model.trust_remote_code
    begun = RunFolder(folder).read_config().spec
    raw = processes.on_all(lambda: read_rows(find(), begun.settings.data))

    def check() -> Corpus:
        data = begun.settings.data
        corpus = draw_splits(with_label_texts(raw, data, label_texts), data, begun.seed)
        check_fingerprint(folder, corpus)
        # After the data, because a recipe derives settings from them.
        asked = _chosen(_without_unused_texts(wanted), raw, _nothing)
        asked = replace(asked, settings=asked.settings.with_absolute_paths())
        # A stored config never grants trust; `resume_run` checks whether it is needed.
        free = ("data", "trust_remote_code")
        check_same_settings(begun.to_json(), asked.to_json(), f"{folder} holds a run", but=free)
        return corpus

    resume_run(folder, options, processes.on_all(check), trust_remote_code=trusts)


def carry_out_comparison(
    wanted: ByRecipe[CompareSpec],
    find: FindSource,
    folder: Path,
    *,
    jobs: int,
    show_progress: bool,
    say: Say,
    label_texts: LabelTexts | None = None,
) -> Comparison:
    """Read the data once and carry out a comparison. Settings are checked before the data are read.

    Raises:
        UserError: see `labeldist.training.study.compare.compare`.
    """
    known = wanted.decided
    check_spec(known or wanted.standard, jobs=jobs)
    # What few-labels chooses by the data is not known yet.
    if known is not None and known.settings.optim.recipe == "standard":
        check_folder(known, folder)
    raw = read_rows(find(), wanted.standard.settings.data)
    spec = _chosen(wanted, raw, say)
    check_spec(spec, jobs=jobs)
    check_folder(spec, folder)
    names = spec.settings.data.data
    name = data_name(names) if names else None
    raw = with_label_texts(raw, spec.settings.data, label_texts)
    if wanted.standard.objectives != wanted.few_labels.objectives:
        spec = _without_uncountable(spec, raw, say)
    return compare_runs(spec, raw, folder, name=name, jobs=jobs, show_progress=show_progress, say=say)


def _without_uncountable(spec: CompareSpec, raw: RawCorpus, say: Say) -> CompareSpec:
    """Leave out of the default objectives those that need a cross-validation which these few rows do not allow."""
    settings = spec.settings
    counting = [name for name in spec.objectives if needs_counting(name, settings)]
    if not counting or settings.matrix.confusion_from != "cross-validation":
        return spec
    try:
        for seed in spec.seeds:
            draw_folds(settings, draw_splits(raw, settings.data, seed), seed)
    except UserError:
        say(
            f"{' and '.join(counting)} {'is' if len(counting) == 1 else 'are'} left out: too few rows to count "
            "confusions by cross-validation. Give a matrix by --confusable or --matrix-file to compare them."
        )
        return replace(spec, objectives=tuple(name for name in spec.objectives if name not in counting))
    return spec


def _as_setting(label_texts: str | Path | LabelTexts | None, settings: dict[str, Any]) -> LabelTexts | None:
    """Put label texts into the settings; a mapping is returned, and named there."""
    if isinstance(label_texts, Mapping):
        settings["label_texts"] = "given"
        return label_texts
    if label_texts is not None:
        settings["label_texts"] = str(label_texts)
    return None


def _check_objectives(*objectives: str) -> None:
    for name in objectives:
        try:
            spec_of(name)
        except ValueError as error:
            raise UserError(str(error)) from error


@contextmanager
def _folder_for(output: str | Path | None) -> Iterator[tuple[Path, Any]]:
    """A folder to write to; a temporary one is deleted at a failure, and else with whoever holds it."""
    if output is not None:
        yield Path(output), None
        return
    if processes.num_started() > 1:
        raise UserError("Several processes need one output folder: give output.")
    temporary = TemporaryFolder()
    try:
        yield temporary.path / "run", temporary
    except BaseException:
        temporary.delete()
        raise


def _shows(progress: bool | None) -> bool:
    return sys.stderr.isatty() if progress is None else progress


def _saying(say: Say | None) -> Say:
    """Pass each sentence on in the words of this module."""
    return _nothing if say is None else lambda sentence: say(in_python(sentence))


def _nothing(sentence: str) -> None:
    pass
