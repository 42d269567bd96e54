"""The label-distance matrices in a loss, and whether they fit the model."""

from torch import nn

from labeldist.ldm import AdaptiveLDM, LabelDistanceMatrix


def matrices_in(module: nn.Module | None) -> list[LabelDistanceMatrix]:
    """All label-distance matrices in a module, each once.

    Examples:
        >>> from labeldist import StaticLDM
        >>> len(matrices_in(nn.ModuleList([StaticLDM.uniform(num_classes=2)])))
        1
    """
    return [] if module is None else [part for part in module.modules() if isinstance(part, LabelDistanceMatrix)]


def main_matrix(module: nn.Module | None, owner: str) -> LabelDistanceMatrix | None:
    """The matrix of a module: the adaptive one if there is one, else the first.

    Args:
        module: a loss, or what holds it.
        owner: what to call the module in the message.

    Raises:
        ValueError: if there is more than one `AdaptiveLDM`.
    """
    matrices = matrices_in(module)
    adaptive = [matrix for matrix in matrices if isinstance(matrix, AdaptiveLDM)]
    if len(adaptive) > 1:
        raise ValueError(f"{owner} must have one AdaptiveLDM, got {len(adaptive)}: share one between its losses.")
    return next(iter(adaptive or matrices), None)


def check_num_classes(ldm: LabelDistanceMatrix | None, num_classes: int | None, *, what: str, hint: str) -> None:
    """Raise `ValueError` unless `what` scores the classes of the matrix."""
    if ldm is not None and num_classes != ldm.num_classes:
        raise ValueError(
            f"{what} must have one output per class of the LDM, {ldm.num_classes}, got {num_classes}. {hint}"
        )


def check_class_names(model: nn.Module, ldm: LabelDistanceMatrix | None) -> None:
    """Raise `ValueError` if the model's configuration and the matrix give one class name two different indices.

    Names that only one of them has are not compared: a model that was given no names calls its classes `LABEL_0`, a
    matrix calls them `0`.

    Args:
        model: a model with a `config.id2label` for as many classes as the matrix, or without any.
        ldm: the matrix.
    """
    names = None if ldm is None else _class_names_of(model, ldm.num_classes)
    if ldm is None or names is None:
        return
    for index, name in enumerate(ldm.class_names):
        if name in names and names.index(name) != index:
            raise ValueError(
                f"The model and the LDM must have their classes in the same order, got class {name!r} at index "
                f"{names.index(name)} in the model's config.id2label and at index {index} in the LDM. Build the LDM "
                f"with class_names={names}."
            )


def _class_names_of(model: nn.Module, num_classes: int) -> list[str] | None:
    """The names in the outermost configuration that names as many classes."""
    for part in model.modules():
        names = getattr(getattr(part, "config", None), "id2label", None)
        if isinstance(names, dict) and sorted(map(int, names)) == list(range(num_classes)):
            return [str(name) for _, name in sorted(names.items(), key=lambda entry: int(entry[0]))]
    return None
