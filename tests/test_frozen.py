"""Files of format 1 load for good, and answer as they did when they were written."""
import frozen
import numpy as np
import pytest

import npgen


@pytest.mark.parametrize("case", frozen.CASES)
def test_a_file_of_format_1_loads_and_answers_as_it_did(case):
    model, before = npgen.load(frozen.FILES / f"{case}.npgen"), frozen.recorded(frozen.FILES / "answers.safetensors")[0][case]
    for query, answer in frozen.answers(model, frozen.rows(case, "float64")).items():
        assert answer.dtype == before[query].dtype, query
        np.testing.assert_allclose(answer, before[query], rtol=1e-9, atol=1e-9 * np.abs(before[query]).max(), err_msg=query)
