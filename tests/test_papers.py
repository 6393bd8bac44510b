"The papers of the project say what is so: citation, changelog, cards, hooks, containers."

import configparser
import json
import re
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset_builder
from huggingface_hub import DatasetCard, ModelCard

import crane

root = Path(__file__).resolve().parent.parent
data = root / "crane" / "data"
settings = configparser.ConfigParser()
settings.read(root / "settings.ini")
settings = settings["DEFAULT"]


def test_the_citation_is_of_this_version_and_names_the_paper():
    c = yaml.safe_load((root / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= c.keys()  # what the format demands
    assert c["version"] == crane.__version__ and c["repository-code"] == settings["git_url"]
    assert "2606.09033" in json.dumps(c["preferred-citation"])


def test_the_changelog_keeps_its_form():
    text = (root / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.M)
    assert [v for v, _ in versions] == ["Unreleased", crane.__version__]
    assert all(day for v, day in versions if v != "Unreleased")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= kinds
    assert set(re.findall(r"^\[(.+?)\]: ", text, re.M)) == {v for v, _ in versions}


def test_the_hub_reads_the_cards():
    card = DatasetCard.load(data / "README.md")
    assert card.data.pretty_name and (data / card.data.license_link).exists()
    for name in "pocket", "router":
        assert ModelCard.load(data / name / "README.md").data.license == "apache-2.0"


@pytest.mark.parametrize("path", ["README.md", "pocket/README.md"])
def test_links_of_a_card_lead_somewhere(path):
    card = data / path
    links = re.findall(r"\]\(([^)#]+)", card.read_text())
    assert links and not [x for x in links if not (card.parent / x).exists()]


@pytest.mark.parametrize("name", ["world", "second_domain", "edits", "probes"])
def test_each_configuration_of_the_data_set_loads(name, tmp_path):
    b = load_dataset_builder(str(data), name, cache_dir=str(tmp_path))
    files = [str(f) for split in b.config.data_files.values() for f in split]
    assert files and all(Path(f).exists() for f in files)
    assert len(b.config.data_files) == (3 if name in ("edits", "probes") else 1)


def test_hooks_and_containers_are_those_of_the_lock():
    hooks = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {h["entry"].split()[0] for h in hooks} == {f".venv/bin/{x}" for x in ("nbdev_clean", "nbdev_export", "ruff")}
    python = settings["min_python"]
    assert f"python:{python}-" in (root / "Containerfile").read_text()
    assert f"python:{python}-" in json.loads((root / ".devcontainer/devcontainer.json").read_text())["image"]
