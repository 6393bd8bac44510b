"The data doctor finds faults that are planted in a world file, by the command that a user runs."

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from crane.command_line import app
from crane.doctor import examine
from crane.world import ARTISTS, load_world, save_world


@pytest.fixture(scope="module")
def world():
    return load_world()


def doctor(path):
    return CliRunner().invoke(app, ["doctor", "--world", str(path)])


def saved(world, path, entities=None, images=None):
    return save_world(entities or list(world.entities.values()), world.images | (images or {}), path)


def test_a_saved_copy_is_as_sound_as_the_shipped_world(world, tmp_path):
    r = doctor(saved(world, tmp_path / "w.parquet"))
    assert r.exit_code == 0 and "no faults" in r.stdout, r.output


@pytest.mark.parametrize("key, source", [("twemoji/JP", "KE"), ("circle-flags/PE", "JP"), ("flagpack/DE", "BR")])
def test_a_wrong_picture_is_found(world, tmp_path, key, source):
    wrong = world.images[
        f"flag-icons-4x3/{source}"
    ]  # by another artist, so that no file is there twice under one artist
    r = doctor(saved(world, tmp_path / "w.parquet", images={key: wrong}))
    assert r.exit_code == 1
    assert f"FAULT   agreement: {key} does not look like" in r.stdout, r.output


def test_a_duplicate_is_found_that_the_artists_agree_on(world, tmp_path):
    "All five pictures of one country filed under another: each artist agrees with the others, and still it is wrong."
    r = doctor(saved(world, tmp_path / "w.parquet", images={f"{a}/JP": world.images[f"{a}/KE"] for a in ARTISTS}))
    assert r.exit_code == 1
    assert "Japan flies almost the flag of Kenya" in r.stdout or "Kenya flies almost the flag of Japan" in r.stdout, (
        r.output
    )
    assert "splits: " in r.stdout and "one and the same picture" in r.stdout  # Kenya and Japan are in different splits


def test_a_wrong_licence_is_found(world, tmp_path):
    path = saved(world, tmp_path / "w.parquet")
    table = pq.read_table(path)
    sources = json.loads(table.schema.metadata[b"sources"])
    sources["twemoji"]["licence"] = "All rights reserved"
    pq.write_table(table.replace_schema_metadata({"sources": json.dumps(sources)}), path)
    r = doctor(path)
    assert r.exit_code == 1 and "artist twemoji: licence 'All rights reserved'" in r.stdout, r.output


@pytest.mark.parametrize(
    "change, told",
    [
        (dict(facts={"capital": "Lima"}), "Peru has no continent"),
        (dict(twin="CL"), "Peru is marked as a twin of Chile, whose flag differs"),
        (dict(name="Chile"), "'chile' names two countries"),
        (dict(seen=False), "split has"),
    ],
)
def test_a_wrong_record_is_found(world, change, told):
    from crane.world import World

    entities = [e.model_copy(update=change) if e.code == "PE" else e for e in world.entities.values()]
    faults = [f.what for f in examine(World(entities, world.images, world.sources)) if f.fault]
    assert any(told in f for f in faults), faults


def test_a_missing_and_a_broken_picture_are_named(world):
    from crane.world import World

    images = {k: v for k, v in world.images.items() if k != "twemoji/PE"} | {"flagpack/CL": b"no picture"}
    faults = [f.what for f in examine(World(list(world.entities.values()), images, world.sources))]
    assert any("twemoji/PE is missing" in f for f in faults) and any("flagpack/CL" in f for f in faults), faults


def test_a_file_that_is_no_world_is_one_sentence(tmp_path):
    r = doctor(tmp_path / "none.parquet")
    assert r.exit_code == 1 and r.stderr.startswith("crane: ") and r.stderr.count("\n") == 1


def test_a_sheet_that_cannot_be_written_is_one_sentence(tmp_path):
    "Below a file there can be no folder."
    (tmp_path / "file").write_text("")
    r = CliRunner().invoke(app, ["doctor", "--sheet", str(tmp_path / "file" / "sheet.png")])
    assert r.exit_code == 1 and r.stderr.startswith("crane: ") and "file" in r.stderr and r.stderr.count("\n") == 1, (
        r.output
    )
