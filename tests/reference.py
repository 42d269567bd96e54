"""The paper's equations as naive Python loops over floats, to compare the library with.

Nothing here uses the library or torch. Arguments are nested lists (`tensor.tolist()`), so every number is a float64.
Equation numbers are those of *Contrastive Learning with Label Distance for Text Classification*.
"""

import math


def similarity(first, second):
    """Eq. 4: half of (cosine + 1), the product of the norms clamped at 1e-8."""
    dot = math.fsum(a * b for a, b in zip(first, second, strict=True))
    norms = math.sqrt(math.fsum(a * a for a in first)) * math.sqrt(math.fsum(b * b for b in second))
    return (dot / max(norms, 1e-8) + 1) / 2


def logit(first, second, distance, temperature, weighting):
    """Eq. 8 with a temperature, or the re-weighted form; `None` for a pair that the matrix removes."""
    if weighting == "scale":
        return distance * similarity(first, second) / temperature
    if distance == 0:
        return None
    return similarity(first, second) / temperature + math.log(distance)


def all_pairs(labels, ref_labels=None):
    """Eq. 5 and 6: the positive pairs and all pairs, without self pairs where the batch is its own reference."""
    others = labels if ref_labels is None else ref_labels
    pairs = {(i, j) for i in range(len(labels)) for j in range(len(others)) if ref_labels is not None or i != j}
    return {(i, j) for i, j in pairs if labels[i] == others[j]}, pairs


def anchor_losses(
    embeddings, labels, ldm, *, ref_emb=None, ref_labels=None, temperature=1.0, weighting="scale", pairs=None
):
    """Eq. 11-13, one number an anchor: KL of the uniform target over the positives from the softmax over all pairs.

    `pairs` is `(positive pairs, all pairs)` as sets of (anchor, reference); derived from the labels if `None`.
    """
    positives, candidates = all_pairs(labels, ref_labels) if pairs is None else pairs
    others = embeddings if ref_emb is None else ref_emb
    other_labels = labels if ref_labels is None else ref_labels
    losses = []
    for i, anchor in enumerate(embeddings):
        logits = {}
        for j, other in enumerate(others):
            if (i, j) in candidates:
                value = logit(anchor, other, ldm[labels[i]][other_labels[j]], temperature, weighting)
                if value is not None:
                    logits[j] = value
        targets = [j for j in logits if (i, j) in positives]
        partition = math.fsum(math.exp(value) for value in logits.values())
        share = 1 / len(targets) if targets else 0.0
        # KL(z || q), where z is uniform over the targets and 0 elsewhere, and 0 log 0 = 0.
        losses.append(math.fsum(share * (math.log(share) - logits[j] + math.log(partition)) for j in targets))
    return losses


def graded_anchor_losses(
    embeddings,
    labels,
    ldm,
    relevance,
    *,
    ref_emb=None,
    ref_labels=None,
    temperature=1.0,
    weighting="scale",
    candidates=None,
):
    """KL of graded targets from the softmax; 0 for an anchor without a relevant candidate.

    The target of a candidate is its relevance over the sum of all candidates' relevances. `candidates` holds pairs of
    (anchor, reference); all pairs if `None`.
    """
    candidates = all_pairs(labels, ref_labels)[1] if candidates is None else candidates
    others = embeddings if ref_emb is None else ref_emb
    other_labels = labels if ref_labels is None else ref_labels
    losses = []
    for i, anchor in enumerate(embeddings):
        logits, targets = {}, {}
        for j, other in enumerate(others):
            if (i, j) in candidates:
                value = logit(anchor, other, ldm[labels[i]][other_labels[j]], temperature, weighting)
                if value is not None:
                    logits[j] = value
                    targets[j] = relevance[labels[i]][other_labels[j]]
        total = math.fsum(targets.values())
        loss = 0.0
        if total > 0:
            log_partition = math.log(math.fsum(math.exp(value) for value in logits.values()))
            for j, target in targets.items():
                if target > 0:
                    loss += target / total * (math.log(target / total) - (logits[j] - log_partition))
        losses.append(loss)
    return losses


def num_valid_anchors(embeddings, labels, ldm, *, ref_labels=None, weighting="scale", pairs=None):
    """Number of anchors that have a positive among the candidates."""
    positives, candidates = all_pairs(labels, ref_labels) if pairs is None else pairs
    others = labels if ref_labels is None else ref_labels
    return sum(
        any(
            (i, j) in positives and (i, j) in candidates and (weighting == "scale" or ldm[labels[i]][others[j]] > 0)
            for j in range(len(others))
        )
        for i in range(len(embeddings))
    )


def confusion_distances(counts, *, max_distance, normalization, symmetric):
    """COUNT(CM) of Algorithm 1, with either normalization."""
    num_classes = len(counts)
    if normalization == "count":
        table = [[float(count) for count in row] for row in counts]
    else:
        table = [
            [counts[a][b] / sum(counts[a]) if a != b and sum(counts[a]) else 0.0 for b in range(num_classes)]
            for a in range(num_classes)
        ]
    if symmetric:
        table = [[(table[a][b] + table[b][a]) / 2 for b in range(num_classes)] for a in range(num_classes)]
    if normalization == "count":
        return table
    largest = max(max(row) for row in table)
    if largest == 0:
        return [[1.0] * num_classes for _ in range(num_classes)]
    return [[1 + (max_distance - 1) * rate / largest for rate in row] for row in table]


def algorithm_1(evaluations, *, num_classes, warmup_fraction, update_every, max_distance, normalization, symmetric):
    """The matrix after a list of `(counts, progress)`."""
    matrix = [[1.0] * num_classes for _ in range(num_classes)]
    for number, (counts, progress) in enumerate(evaluations, start=1):
        if progress > warmup_fraction and number % update_every == 0:
            target = confusion_distances(
                counts, max_distance=max_distance, normalization=normalization, symmetric=symmetric
            )
            epsilon = 1 - progress
            for a in range(num_classes):
                for b in range(num_classes):
                    matrix[a][b] += epsilon * (target[a][b] - matrix[a][b])
    return matrix


def marginal_cross_entropy(logits, allowed):
    """One number a row: minus the log of the probability of the allowed classes."""
    losses = []
    for row, is_allowed in zip(logits, allowed, strict=True):
        largest = max(value for value, inside in zip(row, is_allowed, strict=True) if inside)
        inside = math.fsum(math.exp(value - largest) for value, ok in zip(row, is_allowed, strict=True) if ok)
        # With others as far above as floats reach, the sum of all would overflow: their logits are at most 400 apart.
        outside = math.fsum(math.exp(value - largest) for value, ok in zip(row, is_allowed, strict=True) if not ok)
        losses.append(math.log1p(outside / inside))
    return losses
