"""docs/: generated pages are up to date, and what they list is everything there is."""

import re
import runpy
from pathlib import Path

from aspo_rllib import ASPOConfig
from aspo_rllib.config.rllib import TextAlgorithmConfig

DOCS = Path(__file__).parents[2] / "docs"


def test_what_is_made_from_the_table_of_settings_is_up_to_date():
    module = runpy.run_path(str(DOCS / "config_reference.py"))
    assert module["PAGE"].read_text() == module["page"](), "run python docs/config_reference.py"
    assert module["STUB"].read_text() == module["stub"](), "run python docs/config_reference.py"


def test_the_config_reference_has_every_setting():
    page = (DOCS / "config.md").read_text()
    own = vars(ASPOConfig()).keys() - vars(TextAlgorithmConfig(algo_class=object)).keys()
    assert {name for name in own if f"`{name}`" not in page} == set()


def test_links_between_the_pages_lead_somewhere():
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
