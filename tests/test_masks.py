"""Masks are autoregressive whatever the sizes, and a plan is its mask."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from npgen.masks import BLOCK_COLUMNS, Plan, made_blind, made_degrees, made_masks

FEATURES, HIDDEN = st.integers(1, 12), st.lists(st.integers(1, 20), max_size=4)


def dependency(masks):
    """paths[i, j]: how many ways lead from input i to output j."""
    paths = np.eye(len(masks[0]), dtype=np.int64)
    for mask in masks:
        paths = paths @ mask
    return paths


@given(FEATURES, HIDDEN)
def test_made_is_strictly_autoregressive(d, hidden):
    masks = made_masks(d, hidden)
    assert [m.shape for m in masks] == list(zip([d, *hidden], [*hidden, d], strict=True))
    assert not np.tril(dependency(masks)).any()


@given(FEATURES, st.integers(1, 3), st.integers(0, 5))
def test_wide_layers_let_every_output_see_everything_before_it(d, depth, more):
    paths = dependency(made_masks(d, [max(1, d - 1) + more] * depth))
    assert (paths[np.triu_indices(d, 1)] > 0).all()


@given(FEATURES, HIDDEN)
def test_degrees_are_sorted_and_even(d, hidden):
    inputs, *layers = made_degrees(d, hidden)
    assert inputs.tolist() == list(range(1, d + 1))
    for degrees, width in zip(layers, hidden, strict=True):
        counts = np.bincount(degrees, minlength=d)
        possible = counts[1:d] if d > 1 else counts[:1]
        assert len(degrees) == width == possible.sum() and (np.diff(degrees) >= 0).all()
        assert possible.max() - possible.min() <= 1


@given(FEATURES, HIDDEN)
def test_made_masks_are_staircases(d, hidden):
    for mask in made_masks(d, hidden):
        assert (np.diff(mask.astype(int), axis=1) >= 0).all() and (np.diff(mask.astype(int), axis=0) <= 0).all()


def assert_is_its_mask(plan, mask):
    rebuilt = np.zeros_like(mask)
    assert plan.blocks.dtype == np.int64 and plan.blocks[0, 0] == 0 and plan.blocks[-1, 1] == mask.shape[1]
    assert (plan.blocks[1:, 0] == plan.blocks[:-1, 1]).all()
    for first, last, full, end in plan.blocks:
        rebuilt[:full, first:last] = True
        if full < end:
            rebuilt[full:end, first:last] = plan.mask_as(np.float32)[full:end, first:last]
    np.testing.assert_array_equal(rebuilt, mask)


@given(arrays(bool, st.tuples(st.integers(0, 8), st.integers(0, 300))))
def test_a_plan_is_its_mask(mask):
    assert_is_its_mask(Plan(mask), mask)


@given(st.integers(1, 70), st.lists(st.integers(1, 300), min_size=1, max_size=2))
def test_plans_of_made_are_its_masks(d, hidden):
    for mask in made_masks(d, hidden):
        assert_is_its_mask(Plan(mask), mask)


def test_a_plan_skips_what_a_staircase_empties():
    mask = made_masks(784, (500,))[0]
    work = sum((last - first) * end for first, last, _, end in Plan(mask).blocks)
    assert work / mask.size < 0.58
    assert Plan(mask).blocks[0, 1] <= 2 * BLOCK_COLUMNS


def test_a_dense_plan_looks_at_no_mask():
    plan = Plan.dense(5, 300)
    assert plan.mask.all() and plan.mask_as(np.float32).shape == (0, 0) and plan is Plan.dense(5, 300)
    assert plan.mask_as(np.float32).dtype == np.float32 and plan.mask_as(np.float64).dtype == np.float64


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), ()], ids=str)
def test_a_plan_needs_two_dimensions(shape):
    with pytest.raises(ValueError, match="Plan: mask must have two dimensions, got shape"):
        Plan(np.ones(shape, bool))


@given(st.integers(1, 12), st.lists(st.integers(1, 14), min_size=1, max_size=3))
def test_blind_outputs_are_those_that_no_chain_of_units_joins_to_an_input_before(d, hidden):
    paths = dependency(made_masks(d, hidden))
    blind = [j for j in range(d) if not paths[:j, j].all()]
    np.testing.assert_array_equal(made_blind(d, hidden), blind)
    assert not blind or min(hidden) < d - 1


def test_784_pixels_and_500_units():
    """283 pixels do not see the one before; the default 500 units see all 64 of a digit."""
    assert len(made_blind(784, (500,))) == 283 and not len(made_blind(784, (783,))) and not len(made_blind(64, (500,)))
