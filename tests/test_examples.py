"""Every example runs, says something and draws its picture."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from npgen.models import CLASSES

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.long
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example(script, tmp_path):
    pytest.importorskip("matplotlib")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    ours = "-W", "error::UserWarning", "-W", "error::RuntimeWarning"
    result = subprocess.run([sys.executable, *ours, script, tmp_path / "pictures"], cwd=tmp_path, env=env,
                            capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    assert result.stdout and not result.stderr
    picture = tmp_path / "pictures" / f"{script.stem}.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size > 2000


def test_there_is_one_example_per_model_one_of_all_and_three_more():
    models = {re.sub("(?<=[a-z])(?=[A-Z][a-z])", "_", name).lower() for name in CLASSES}
    assert {script.stem for script in EXAMPLES} == models | {"00_autodiff", "latent_arithmetic", "table", "taxonomy"}
