"The data doctor finds faults planted in a world file, through the command that a user runs."

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from crane.command_line import app
from crane.doctor import check_machine, check_packages, examine
from crane.world import ARTISTS, World, load_world, save_world


@pytest.fixture(scope="module")
def world():
    return load_world()


def doctor(path):
    "Run `crane doctor` on a world file."
    return CliRunner().invoke(app, ["doctor", "--world", str(path)])


def saved(world, path, images=None):
    "Save a copy of the world in which some pictures are exchanged."
    return save_world(list(world.entities.values()), world.images | (images or {}), path)


def found(entities, images, sources):
    "What the doctor says of a world made of these parts, faults only."
    return [f.what for f in examine(World(entities, images, sources)) if f.fault]


def test_a_saved_copy_is_as_sound_as_the_shipped_world(world, tmp_path):
    r = doctor(saved(world, tmp_path / "w.parquet"))
    assert r.exit_code == 0 and "no faults" in r.stdout, r.output


@pytest.mark.parametrize("key, source", [("twemoji/JP", "KE"), ("circle-flags/PE", "JP"), ("flagpack/DE", "BR")])
def test_a_wrong_picture_is_found(world, tmp_path, key, source):
    wrong = world.images[f"flag-icons-4x3/{source}"]  # by another artist, so that none has a file twice
    r = doctor(saved(world, tmp_path / "w.parquet", images={key: wrong}))
    assert r.exit_code == 5
    assert f"FAULT   agreement: {key} does not look like" in r.stdout, r.output


def test_a_duplicate_is_found_that_the_artists_agree_on(world, tmp_path):
    "All five pictures of one country are filed under another: the artists agree with each other, and all are wrong."
    wrong = {f"{a}/JP": world.images[f"{a}/KE"] for a in ARTISTS}
    r = doctor(saved(world, tmp_path / "w.parquet", images=wrong))
    assert r.exit_code == 5
    either = "Japan flies almost the flag of Kenya", "Kenya flies almost the flag of Japan"
    assert any(what in r.stdout for what in either), r.output
    assert "splits: " in r.stdout and "one and the same picture" in r.stdout  # Kenya and Japan are in different splits


def test_a_wrong_licence_is_found(world, tmp_path):
    path = saved(world, tmp_path / "w.parquet")
    table = pq.read_table(path)
    sources = json.loads(table.schema.metadata[b"sources"])
    sources["twemoji"]["licence"] = "All rights reserved"
    pq.write_table(table.replace_schema_metadata({"sources": json.dumps(sources)}), path)
    r = doctor(path)
    assert r.exit_code == 5 and "artist twemoji: licence 'All rights reserved'" in r.stdout, r.output


@pytest.mark.parametrize(
    "change, told",
    [
        (dict(facts={"capital": "Lima"}), "Peru has no continent"),
        (dict(twin="CL"), "Peru is marked as a twin of Chile, whose flag differs"),
        (dict(name="Chile"), "'chile' names two countries"),
        (dict(seen=False), "split has"),
        (dict(fact_aliases={"capital": ["Ciudad de los Reyes", "peru"]}), "'peru' spells the capital 'Lima' of Peru"),
        (dict(fact_aliases={"capital": ["Chile"]}), "and is a name of Chile"),
        (dict(fact_aliases={"capital": ["Bogotá"]}), "'bogota' spells Bogota and Lima, each a capital"),
    ],
)
def test_a_wrong_record_is_found(world, change, told):
    entities = [e.model_copy(update=change) if e.code == "PE" else e for e in world.entities.values()]
    faults = found(entities, world.images, world.sources)
    assert any(told in f for f in faults), faults


def test_a_missing_and_a_broken_picture_are_named(world):
    images = {k: v for k, v in world.images.items() if k != "twemoji/PE"} | {"flagpack/CL": b"no picture"}
    faults = found(list(world.entities.values()), images, world.sources)
    assert any("twemoji/PE is missing" in f for f in faults), faults
    assert any("flagpack/CL" in f for f in faults), faults


def test_a_file_that_is_no_world_is_one_sentence(tmp_path):
    r = doctor(tmp_path / "none.parquet")
    assert r.exit_code == 1 and r.stderr.startswith("crane: ") and r.stderr.count("\n") == 1


def test_a_sheet_that_cannot_be_written_is_one_sentence(tmp_path):
    "There can be no folder below a file."
    (tmp_path / "file").write_text("")
    r = CliRunner().invoke(app, ["doctor", "--sheet", str(tmp_path / "file" / "sheet.png")])
    assert r.exit_code == 1 and r.stderr.startswith("crane: "), r.output
    assert "file" in r.stderr and r.stderr.count("\n") == 1, r.output


# ---- the machine and its packages


def test_a_package_out_of_range_is_a_fault_and_a_lacking_extra_is_a_remark(monkeypatch):
    required = ["numpy<1", "torch>=2", 'no-such>=1; extra == "demo"', 'crane-companion[demo]; extra == "dev"']
    monkeypatch.setattr("crane.doctor.metadata.requires", lambda name: required)
    core, *rest = check_packages()
    assert core.fault and core.what.startswith("numpy is ") and core.what.endswith("and not <1")
    assert not any(f.fault for f in rest) and rest[-1].what == "demo (1): no-such is not installed"


def test_an_old_python_is_a_fault(monkeypatch):
    monkeypatch.setattr("crane.doctor.platform.python_version", lambda: "3.9.1")
    assert any(f.fault and "Python is 3.9.1" in f.what for f in check_packages())


def test_little_memory_is_said(monkeypatch):
    monkeypatch.setattr("crane.doctor.hardware", lambda: dict(cpu="x", cores=1, memory_bytes=2e9))
    assert any("little memory" in f.what and not f.fault for f in check_machine(Path.cwd()))
