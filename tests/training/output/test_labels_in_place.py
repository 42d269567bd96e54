"""Labels stand beside what they name, and nothing stands below them."""

import itertools

import numpy as np
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from labeldist.training.output.pictures.drawing import new_figure
from labeldist.training.output.pictures.labels_in_place import Label, place_labels
from labeldist.training.output.pictures.themes import THEMES


def test_labels_overlap_neither_each_other_nor_the_frame():
    figure = new_figure(6, 6, THEMES["light"])
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    targets = [(0.5, 0.5), (0.52, 0.5), (0.5, 0.53), (0.02, 0.98), (0.98, 0.02)]
    labels = [Label(f"label {place}\nof two lines", target, "red") for place, target in enumerate(targets)]
    place_labels(figure, axes, labels, np.array(targets), THEMES["light"])
    figure.draw_without_rendering()
    drawn = [child for child in axes.get_children() if isinstance(child, Annotation)]
    assert [text.get_text() for text in drawn] == [label.text for label in labels]
    # The extent of the text alone, without the line to its target.
    boxes = [super(Annotation, text).get_window_extent() for text in drawn]
    assert all(Bbox.intersection(*pair) is None for pair in itertools.combinations(boxes, 2))
    frame = axes.get_window_extent()
    assert all(frame.containsx(box.x0) and frame.containsx(box.x1) for box in boxes)
    assert all(frame.containsy(box.y0) and frame.containsy(box.y1) for box in boxes)
