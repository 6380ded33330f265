"""The public checker flags seeded mistakes: a few of them by default, all with --slow; as a table: python tests/mutants.py."""
import mutants
import pytest

QUICK = ("variance for std: density", "sign of a log-det", "output sees itself", "order not inverted in the sampler",
         "gradient of an unbroadcast axis", "standardise: log-det dropped", "mixture: component off by one", "seed ignored")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of a logarithm of what the mistake has made negative
@pytest.mark.parametrize("mutant", [pytest.param(m, marks=() if m.name in QUICK else pytest.mark.slow, id=m.name)
                                    for m in mutants.MUTANTS])
def test_a_mistake_is_found(mutant):
    report = mutants.kill(mutant)
    assert not report.passed, f"{mutant.name} survives:\n{report}"


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.name)
def test_a_mistake_can_still_be_made(mutant):
    with mutant.made():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", mutants.MODELS)
def test_no_sound_model_is_flagged(name, seed=1001):
    """With more seeds: python tests/mutants.py --seeds 6"""
    model, x = mutants.fit(name, seed)
    report = mutants.check_generative_model(model, x, seed=seed)
    assert report.passed, str(report)


def test_there_are_enough_and_they_differ():
    names = [m.name for m in mutants.MUTANTS]
    edits = [(m.target, m.old, m.new, m.model) for m in mutants.MUTANTS]
    assert len(names) >= 40 and len(set(names)) == len(names) and len(set(edits)) == len(edits) and set(QUICK) <= set(names)


def test_a_mutant_whose_text_is_gone_says_so():
    gone = mutants.Mutant("gone", "MADE, bits", "masks:made_masks", "no such text", "")
    with pytest.raises(LookupError, match="mutant 'gone': masks:made_masks no longer has 'no such text'; write it anew"):
        mutants.kill(gone)


def test_a_mutant_is_unmade_afterwards():
    from npgen.kernels import flow
    before = flow.inverse.numba, flow.inverse.reference
    with mutants.MUTANTS[[m.name for m in mutants.MUTANTS].index("sign of a log-det")].made():
        assert flow.inverse.numba is flow.inverse.reference is not before[1]
    assert (flow.inverse.numba, flow.inverse.reference) == before
