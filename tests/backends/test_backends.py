"""The selection of a backend, its errors, and the agreement of all backends."""

import pytest
import torch
from hypothesis import given

from labeldist import LabelDistanceContrastiveLoss, StaticLDM, backends, functional
from labeldist.pairs import Batch
from strategies import brief, gradient_of, normal, problems, problems_with_references, refusal_of

CHOICES = ["auto", "eager", "blockwise"]


def batch(num_rows=6, dim=3, dtype=torch.float64, seed=0):
    labels = torch.arange(num_rows) % 3
    return normal(num_rows, dim, seed=seed, dtype=dtype), labels, torch.tensor([[1.0, 5, 2], [1, 1, 1], [3, 1, 1]])


@pytest.mark.parametrize("backend", CHOICES)
@brief
@given(problem=problems())
def test_every_backend_agrees_with_functional(backend, problem):
    tables = functional.class_pair_tables(problem.ldm, **problem.options)
    rows = Batch(problem.embeddings, problem.labels)
    expected = functional.anchor_losses(rows, tables)
    found = backends.anchor_losses(rows, tables, backend=backend)
    torch.testing.assert_close(found.losses, expected.losses)
    assert found.is_valid.equal(expected.is_valid)


@pytest.mark.parametrize("backend", CHOICES)
@brief
@given(problem=problems_with_references())
def test_every_backend_supports_references(backend, problem):
    expected = functional.label_distance_contrastive(problem.embeddings, problem.labels, problem.ldm, **problem.options)
    found = backends.label_distance_contrastive(
        problem.embeddings, problem.labels, problem.ldm, **problem.options, backend=backend
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", CHOICES)
@pytest.mark.parametrize("weighting", ["scale", "log"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_of_embeddings_and_matrix_agree_with_functional(backend, weighting, dtype):
    def gradients(function, **options):
        embeddings, labels, ldm = batch(dtype=dtype)
        embeddings.requires_grad_()
        ldm.requires_grad_()
        function(embeddings, labels, ldm, weighting=weighting, **options).sum().backward()
        return gradient_of(embeddings), gradient_of(ldm)

    expected = gradients(functional.label_distance_contrastive)
    for found, one in zip(gradients(backends.label_distance_contrastive, backend=backend), expected, strict=True):
        assert found.dtype == one.dtype
        torch.testing.assert_close(found, one)


@pytest.mark.parametrize(
    ("num_rows", "num_references", "expected"),
    [
        (511, None, "eager"),
        (512, None, "blockwise"),
        (8, 2**15, "blockwise"),
        (8, 2**15 - 1, "eager"),
        (0, None, "eager"),
    ],
)
def test_auto_selects_blockwise_for_many_pairs(num_rows, num_references, expected):
    rows = Batch(torch.empty(num_rows, 1), torch.empty(num_rows))
    if num_references is not None:
        rows = rows._replace(ref_emb=torch.empty(num_references, 1), ref_labels=torch.empty(num_references))
    assert backends.choose_backend("auto", rows, num_classes=3) == expected


@pytest.mark.parametrize(("num_rows", "expected"), [(2**14, "eager"), (2**15, "blockwise")])
def test_auto_selects_blockwise_on_other_devices_only_if_eager_would_need_much_memory(num_rows, expected):
    rows = Batch(torch.empty(num_rows, 1, device="meta"), torch.empty(num_rows, device="meta"))
    assert backends.choose_backend("auto", rows, num_classes=3) == expected


def test_auto_selects_eager_for_listed_pairs():
    rows = Batch(torch.empty(4096, 1), torch.empty(4096))
    assert backends.choose_backend("auto", rows, num_classes=3, is_listed=True) == "eager"


@pytest.mark.parametrize("backend", ["blockwise", "triton"])
def test_other_backends_refuse_listed_pairs(backend):
    labels = torch.tensor([0, 0, 1])
    tuples = tuple(torch.tensor([index]) for index in (0, 1, 2))
    loss = LabelDistanceContrastiveLoss(StaticLDM.uniform(num_classes=2), backend=backend)
    assert refusal_of(ValueError, loss, normal(3, 2), labels, tuples) == (
        f"backend='{backend}' compares all pairs, got listed ones (an indices_tuple). Use 'auto' or 'eager'."
    )


def test_triton_on_a_cpu_is_refused():
    assert refusal_of(RuntimeError, backends.label_distance_contrastive, *batch(), backend="triton") == (
        "backend='triton' needs embeddings on an NVIDIA GPU, got cpu. Use 'auto' elsewhere."
    )


def test_an_unknown_backend_is_refused_by_function_and_loss():
    sentence = "backend must be one of 'auto', 'eager', 'blockwise', 'triton', got 'cuda'."
    assert refusal_of(ValueError, backends.label_distance_contrastive, *batch(), backend="cuda") == sentence
    assert refusal_of(ValueError, LabelDistanceContrastiveLoss, torch.ones(2, 2), backend="cuda") == sentence


@pytest.mark.parametrize("backend", CHOICES)
def test_every_backend_refuses_bad_labels(backend):
    embeddings, labels, ldm = batch()
    sentence = refusal_of(ValueError, backends.label_distance_contrastive, embeddings, labels + 1, ldm, backend=backend)
    assert sentence.startswith("labels must lie in [0, 3) for an LDM of 3 classes, got values from 1 to 3.")


@pytest.mark.parametrize("backend", CHOICES)
def test_the_loss_uses_the_selected_backend(backend):
    embeddings, labels, ldm = batch(num_rows=9, dtype=torch.float32)
    expected = LabelDistanceContrastiveLoss(ldm, backend="eager")(embeddings, labels)
    torch.testing.assert_close(LabelDistanceContrastiveLoss(ldm, backend=backend)(embeddings, labels), expected)


def test_the_loss_does_not_allocate_all_pairs_of_a_large_batch():
    embeddings, labels, ldm = batch(num_rows=4096, dim=4, dtype=torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        LabelDistanceContrastiveLoss(ldm)(embeddings.requires_grad_(), labels).backward()
    assert max(event.cpu_memory_usage for event in profile.events() or []) < 4 * 4096 * 4096 / 2
