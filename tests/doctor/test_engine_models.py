"""Models that an engine cannot generate with are refused in preflight, before anything boots."""

import pytest
from transformers import AutoTokenizer
from zoo import random_model

from aspo_rllib import TINY_MODEL
from aspo_rllib.doctor import preflight


@pytest.mark.parametrize("name", ["lfm2", "falcon_h1"])
def test_hybrids_are_refused_with_the_transformers_engine(name, make_config, tmp_path):
    random_model(name).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(TINY_MODEL).save_pretrained(tmp_path)
    config = make_config().llm(model=str(tmp_path))
    preflight.check_model(config.copy(copy_frozen=False).llm(engine="vllm"))
    with pytest.raises(ValueError, match=r"engine='transformers': expected 'vllm' for llm_model="):
        preflight.check_model(config.llm(engine="transformers"))
