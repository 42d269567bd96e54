"""A comparison's confusion matrices: of its baseline, and of the best other objective."""

import numpy as np

from comparisons import WHERE, compared, finished, metrics_of
from labeldist.training.output.pictures import heat_maps
from labeldist.training.records import Confusion
from labeldist.training.study.comparison import build_comparison
from labeldist.training.study.confusion_maps import best_beside_baseline, draw_confusions, pool_confusions

NAMES = ("ask", "tell", "order")


def test_the_best_other_objective_is_the_one_of_the_highest_mean():
    accuracies = {"ce": [0.9, 0.9], "uniform": [0.7, 0.8], "static": [0.8, 0.8], "adaptive": [0.8, 0.8]}
    assert best_beside_baseline(compared(accuracies)) == "static"
    assert best_beside_baseline(compared({"ce": [0.9]})) is None


def test_counts_of_runs_add_up():
    one = Confusion((0, 2), (0, 1), (3, 2))
    assert pool_confusions([one]) == one
    assert pool_confusions([one, Confusion((1, 2), (1, 1), (1, 5))]).matrix(3).tolist() == [
        [3, 0, 0],
        [0, 1, 0],
        [0, 7, 0],
    ]


def test_both_maps_pool_the_same_seeds_in_one_order_and_scale(tmp_path, monkeypatch):
    calls = []
    plot = heat_maps.plot_confusion

    def watched(counts, class_names, path, **options):
        calls.append((counts.matrix(3).tolist(), options))
        plot(counts, class_names, path, **options)

    monkeypatch.setattr("labeldist.training.output.pictures.plot_confusion", watched)
    base, better = np.diag([4, 4, 4]), np.diag([6, 6, 6])
    base[0, 1], better[2, 0] = 4, 2
    runs = [finished("ce", seed, metrics_of(base, NAMES)) for seed in range(3)]
    runs += [finished("adaptive", seed, metrics_of(better, NAMES)) for seed in range(2)]
    draw_confusions(runs, build_comparison(runs, **WHERE), tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["confusion-baseline.png", "confusion-best.png"]
    (first, options), (second, others) = calls
    assert (first, second) == ((2 * base).tolist(), (2 * better).tolist())
    assert options["top_share"] == others["top_share"] == 0.5
    assert options["order"].tolist() == others["order"].tolist()
    assert options["title"] == "Confusion matrix: ce"
    assert others["title"] == "Confusion matrix: adaptive"
    assert options["note"] == "pooled over 2 seeds"
