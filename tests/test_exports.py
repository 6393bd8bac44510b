"Exports say what the benchmark says, come back through our own door and those of others, and appear whole or not."

import io
import json
import re

import pytest
import yaml
from conftest import script
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from crane.benchmark import Benchmark, save_benchmark
from crane.command_line import app
from crane.core import CraneError, Edit, Probe
from crane.exports import EXPORTS, asked_images, asked_messages, export_benchmark, task_scores, to_ask
from crane.failure_modes import exact_probe, varied
from crane.public_files import missing_images
from crane.public_formats import load_public


def png(color):
    buf = io.BytesIO()
    Image.new("RGB", (4, 4), color).quantize().save(buf, "PNG")
    return buf.getvalue()


class Pictures:
    images = {
        key: png((n, 0, 0)) for n, key in enumerate(["a/PE", "a/JP", "b/PE", "a/PE~blur", "../up", "/mine/x.png"])
    }


def visual(id="v", **changes):
    fields = dict(
        id=id,
        modality="visual",
        relation="country",
        subject="PE",
        subject_name="Peru",
        target="JP",
        image="a/PE",
        question="Whose flag is this?",
        target_old="Peru",
        target_new="Japan",
        aliases=["Nippon"],
    )
    return Edit(**fields | changes)


def textual(id="t"):
    changes = dict(modality="textual", relation="capital", image=None, question="What is the capital of Peru?")
    return visual(id, target_old="Lima", target_new="Tokyo", aliases=[], **changes)


def probes_of(e, far="a/PE~blur"):
    "Of a visual edit two probes of most kinds, the more typical one behind."
    exact = exact_probe(e)
    local = dict(aliases=[], old_names=[])
    yield exact
    yield varied(exact, "text_rephrase", id=f"{e.id}/r", question="Which land flies this?")
    yield varied(exact, "image_rephrase", id=f"{e.id}/blur", image="a/PE~blur", tags=["blur"])
    yield varied(exact, "image_rephrase", id=f"{e.id}/asked", image="a/JP", question="And this?", tags=["artist"])
    yield varied(exact, "image_rephrase", id=f"{e.id}/artist", image="b/PE", tags=["artist"])
    yield varied(exact, "both_rephrase", id=f"{e.id}/both", image="b/PE", question="Which land flies this?")
    hop = dict(answer="Tokyo", aliases=[], chain=[["Japan"]], hops=1)
    yield varied(exact, "multi_hop", id=f"{e.id}/hop", question="What is its capital?", **hop)
    near = dict(question="Peru's capital?", image=None, answer="Lima")
    yield varied(exact, "text_locality", id=f"{e.id}/near", tags=["near"], **near, **local)
    away = dict(question="Chad's capital?", image=None, answer="N'Djamena")
    yield varied(exact, "text_locality", id=f"{e.id}/far", tags=["far"], **away, **local)
    yield varied(exact, "image_locality", id=f"{e.id}/look", image="a/JP", answer="Japan", **local)
    yield varied(exact, "image_locality", id=f"{e.id}/away", image=far, answer="Peru", tags=["far"], **local)


def save(folder, *visuals, split="test", far="a/PE~blur"):
    "A benchmark of some visual edits and a textual one, and a question that needs both."
    fact = textual()
    both = varied(exact_probe(visuals[0]), "multi_hop", id="both", answer="Tokyo", hops=1, also=["t"])
    probes = [p for e in visuals for p in probes_of(e, far)]
    bench = Benchmark([*visuals, fact], [*probes, exact_probe(fact), both])
    save_benchmark(bench, folder, split, Pictures())
    (folder / "card.md").write_text("# The card\n")
    return bench


@pytest.fixture
def data(tmp_path):
    save(tmp_path / "data", visual())
    save(tmp_path / "data", visual(), split="train", far="a/JP")
    return tmp_path / "data"


def fails(says, *args):
    with pytest.raises(CraneError, match=says) as e:
        export_benchmark(*args)
    assert str(e.value).endswith(".") and "\n" not in str(e.value)


def seen(r, images):
    "What a record says, with the content of its picture."
    shown = r.image and images[r.image]
    said = (r.target_old, r.target_new) if isinstance(r, Edit) else (r.kind, r.answer, r.hops)
    return r.question, shown, said


# EasyEdit and VLKEB


@pytest.mark.parametrize(
    "format, file, adapter", [("vlkeb", "test", "VLKEB multi-hop"), ("easyedit", "vqa_test", "VLKEB")]
)
def test_it_comes_back_through_our_own_door(tmp_path, data, format, file, adapter):
    (line, _) = export_benchmark(format, data, tmp_path / "out")
    back = load_public(adapter, tmp_path / "out" / f"{file}.json", tmp_path / "out/images")
    e = visual()
    wanted = ["v/exact", "v/r", "v/artist", "v/far", "v/away", *(["v/hop"] if format == "vlkeb" else [])]
    probes = [p for p in probes_of(e) if p.id in wanted]
    assert [seen(x, back.images) for x in back.edits] == [seen(e, Pictures.images)]
    assert {seen(x, back.images) for x in back.probes} == {seen(x, Pictures.images) for x in probes}
    assert not back.remarks and not back.ignored
    train = load_public(adapter, tmp_path / "out" / f"{file.replace('test', 'train')}.json")
    assert not missing_images(train.edits, train.probes, tmp_path / "out/images", decode=True)
    assert line.startswith(f"test: 1 of 2 edits, {len(probes)} of 13 probes; left out: edits 1, ")
    assert f"* {line}" in (tmp_path / "out/README.md").read_text()


TEXT = st.text("abcÖé ,.'\"?/&-–3", min_size=1, max_size=12).map(lambda s: " ".join(s.split())).filter(bool)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(question=TEXT, old=TEXT, new=TEXT)
def test_any_text_comes_back_as_it_was(tmp_path_factory, question, old, new):
    folder = tmp_path_factory.mktemp("any")
    e = visual(question=question, target_old=old, target_new=new)
    save(folder / "data", e)
    export_benchmark("vlkeb", folder / "data", folder / "out")
    (back,) = load_public("VLKEB multi-hop", folder / "out/test.json").edits
    assert (back.question, back.target_old, back.target_new) == (question, old, new)


def test_an_edit_that_lacks_a_probe_is_left_out_and_counted(tmp_path):
    bench = save(tmp_path / "data", visual(), visual("w"))
    bench.probes[:] = [p for p in bench.probes if p.id not in ("w/far", "w/near")]
    save_benchmark(bench, tmp_path / "data", "test", Pictures())
    (line,) = export_benchmark("vlkeb", tmp_path / "data", tmp_path / "out")
    assert line.startswith("test: 1 of 3 edits") and len(json.loads((tmp_path / "out/test.json").read_text())) == 1


@pytest.mark.parametrize("key", ["../up", "/mine/x.png"])
def test_no_picture_leaves_its_folder(tmp_path, key):
    save(tmp_path / "data", visual(), far=key)
    export_benchmark("vlkeb", tmp_path / "data", tmp_path / "out")
    back = load_public("VLKEB", tmp_path / "out/test.json", tmp_path / "out/images")
    assert back.images[back.probes[-1].image] == Pictures.images[key]


def test_a_damaged_picture_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(Pictures.images, "a/JP", b"no picture")
    save(tmp_path / "data", visual(), far="a/JP")
    fails("image a/JP cannot be read", "easyedit", tmp_path / "data", tmp_path / "out")


# Hugging Face


def test_a_hugging_face_folder_loses_nothing(tmp_path, data):
    from datasets import Image as Picture
    from datasets import load_dataset

    export_benchmark("hf", data, tmp_path / "out")
    bench = save(tmp_path / "again", visual())
    for config, cls, records in [("edits", Edit, bench.edits), ("probes", Probe, bench.probes)]:
        sets = load_dataset(str(tmp_path / "out"), config, cache_dir=str(tmp_path / "cache"))
        assert set(sets) == {"train", "test"}
        raw = sets["test"].cast_column("image", Picture(decode=False))
        for row, r in zip(raw, records, strict=True):
            own = {k: v for k, v in row.items() if k in cls.model_fields}
            assert cls(**own | dict(image=row["image"] and row["image"]["path"])) == r
            assert not r.image or row["image"]["bytes"] == Pictures.images[r.image]
    assert len(load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["test"]) == len(bench.probes)


def test_the_card_of_a_hugging_face_folder(tmp_path, data):
    export_benchmark("hf", data, tmp_path / "out")
    _, head, text = (tmp_path / "out/README.md").read_text().split("---\n")
    head = yaml.safe_load(head)
    assert (head["license"], head["license_link"]) == ("other", "SOURCES.md") and text.strip() == "# The card"
    assert "MIT" in (tmp_path / "out/SOURCES.md").read_text()
    features = {i["config_name"]: {f["name"] for f in i["features"]} for i in head["dataset_info"]}
    assert features == dict(edits={*Edit.model_fields, "stratum", "p_old"}, probes=set(Probe.model_fields))


# lmms-eval. It needs torchvision, which does not run beside the CPU build of torch, so it is not among the extras.
# Its fields are listed here as `TaskConfig` of 0.7.3 declares them; where it is installed, its own loader is asked.

TASK_FIELDS = set(
    re.findall(
        r"\w+",
        """task task_alias tag group group_alias dataset_path dataset_name dataset_kwargs training_split
        validation_split test_split fewshot_split full_docs process_results_use_image process_docs doc_to_visual
        doc_to_text doc_to_target doc_to_choice doc_to_messages process_results use_prompt description
        target_delimiter fewshot_delimiter fewshot_config num_fewshot metric_list output_type generation_kwargs
        repeats filter_list should_decontaminate doc_to_decontamination_query cluster_key score_key metadata
        lmms_eval_specific_kwargs model_specific_generation_kwargs model_specific_target_kwargs reasoning_tags
        auto_strip_thinking""",
    )
)


class Named(yaml.SafeLoader):
    "Reads names of functions as text."


Named.add_constructor("!function", lambda loader, node: node.value)


@pytest.fixture
def tasks(tmp_path, data):
    export_benchmark("lmms-eval", data, tmp_path / "tasks")
    return tmp_path / "tasks"


def utils_of(tasks):
    return script(tasks / "utils.py")


def rows_of(tasks, tmp_path):
    from datasets import load_dataset

    files = dict(test=str(tasks / "data/test.parquet"))
    return load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["test"]


def test_a_task_has_only_fields_that_lmms_eval_knows(tasks):
    utils = utils_of(tasks)
    for path in tasks.glob("*.yaml"):
        task = yaml.load(path.read_text(), Named)
        assert set(task) <= TASK_FIELDS and task["task"] == f"reasonedit_{path.stem}"
        for name in ("doc_to_text", "doc_to_visual", "doc_to_messages", "process_results"):
            assert callable(getattr(utils, task[name].removeprefix("utils.")))
        (file,) = task["dataset_kwargs"]["data_files"].values()
        assert (tasks / file).is_file() and set(task["dataset_kwargs"]["data_files"]) == {task["test_split"]}
        assert {m["metric"] for m in task["metric_list"]} == {"fmt", "answer", "grounded", "kept", "names_target"}
        assert (task["reasoning_tags"], task["generation_kwargs"]["until"]) == ("none", [])


def test_the_loader_of_lmms_eval_takes_the_tasks(tasks):
    reason = "lmms-eval is not installed here: its fields are checked against a list"
    manager = pytest.importorskip("lmms_eval.tasks", reason=reason)
    known = manager.TaskManager(include_defaults=False, include_path=str(tasks))
    for kind in ("simple", "chat"):
        loaded = manager.get_task_dict(["reasonedit_test"], known, kind)
        assert set(loaded) == {"reasonedit_test_plain", "reasonedit_test_noted"}
        assert all(len(task.test_docs()) == 13 for task in loaded.values())


def test_a_task_puts_each_probe_and_its_notes(tasks, tmp_path):
    utils, rows = utils_of(tasks), {r["id"]: r for r in rows_of(tasks, tmp_path)}
    bench = save(tmp_path / "again", visual())
    assert list(rows) == [p.id for p in bench.probes]
    for p in bench.probes:
        row = rows[p.id]
        assert utils.plain_text(row) == p.question and utils.noted_text(row).endswith(f"\n{p.question}")
        assert len(utils.plain_visual(row)) == bool(p.image)
        assert all(im.mode == "RGB" for im in asked_images(row, "noted"))
    assert utils.noted_text(rows["both"]).count("Note: ") == 2, "what a probe needs besides is noted too"
    shown = [getattr(utils, f"{how}_visual")(rows["v/artist"]) for how in ("noted", "plain")]
    red = [[im.getpixel((0, 0))[0] for im in images] for images in shown]
    assert red == [[0, 2], [2]], "the picture of the note comes first"
    (turn,) = asked_messages(rows["v/artist"], "noted")
    assert [x["type"] for x in turn["content"]] == ["text", "image", "text", "image", "text"]


@pytest.mark.parametrize(
    "id, said, scores",
    [
        ("v/r", "<think>The note says Japan. I follow the note.</think>Japan", dict(fmt=1, answer=1, grounded=1)),
        ("v/r", "<think>It is Peru's flag.</think>Japan", dict(fmt=1, answer=1, grounded=0)),
        ("v/r", "Japan", dict(fmt=0, answer=1, grounded=0)),
        ("v/r", "", dict(fmt=0, answer=0, grounded=0)),
        ("v/far", "<think>I know that.</think>N'Djamena", dict(fmt=1, kept=1, names_target=0)),
        ("v/far", "<think>The note says Nippon.</think>Tokyo", dict(fmt=1, kept=0, names_target=1)),
    ],
)
def test_a_task_scores_by_the_rules_of_the_protocol(tasks, tmp_path, id, said, scores):
    row = next(r for r in rows_of(tasks, tmp_path) if r["id"] == id)
    assert task_scores(row, [said]) == scores


# the door


def test_what_cannot_be_exported_is_told_in_a_sentence(tmp_path, data):
    fails("'csv' is no format to export to: use one of easyedit, vlkeb, hf, lmms-eval", "csv", data, tmp_path / "out")
    fails("holds no benchmark: run 05a_benchmark", "hf", tmp_path, tmp_path / "out")
    fails("holds no benchmark: run 05a_benchmark", "hf", tmp_path / "none", tmp_path / "out")
    fails("is no empty folder", "hf", data, data)
    fails("is no empty folder", "hf", data, data / "card.md")
    (data / "card.md").unlink()
    fails("card.md is missing: run 05a_benchmark again", "vlkeb", data, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["data"], "nothing is left behind"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full"), CraneError("x.")])
def test_an_export_appears_whole_or_not_at_all(tmp_path, data, monkeypatch, error):
    def stops(whole, folder):
        (folder / "half.json").write_text("[")
        raise error

    monkeypatch.setitem(EXPORTS, "mine", stops)
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        export_benchmark("mine", data, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_an_empty_folder_is_filled_and_a_new_format_is_one_line(tmp_path, data, monkeypatch):
    def mine(whole, folder):
        "Edits only."
        (folder / "n.txt").write_text(str(len(whole.splits["test"].edits)))
        return ["test: all edits"]

    monkeypatch.setitem(EXPORTS, "mine", mine)
    (tmp_path / "out").mkdir()
    assert export_benchmark("mine", data, tmp_path / "out") == ["test: all edits"]
    assert (tmp_path / "out/n.txt").read_text() == "2" and "Edits only." in (tmp_path / "out/README.md").read_text()
    fails("use one of easyedit, vlkeb, hf, lmms-eval, mine", "csv", data, tmp_path / "other")


# the shell


def crane(*args):
    return CliRunner().invoke(app, list(map(str, args)))


def test_the_shell_exports_and_prints_a_card(tmp_path, data):
    r = crane("benchmark", "export", "--format", "vlkeb", "--data", data, "--out", tmp_path / "out")
    assert r.exit_code == 0 and "test: 1 of 2 edits" in r.stdout and "written to" in r.stdout
    r = crane("benchmark", "export", "--format", "vlkeb", "--data", data, "--out", tmp_path / "out")
    assert r.exit_code == 1 and r.stderr.count("\n") == 1 and "is no empty folder" in r.stderr
    test, train = (tmp_path / f"out/{split}.json" for split in ("test", "train"))
    r = crane("benchmark", "card", test, "--format", "VLKEB multi-hop", "--train", train)
    assert r.exit_code == 0 and "1 of 1 (100.0 %) pairs of entity and target occur in train" in r.stdout


def test_the_shell_skips_malformed_records_only_if_asked(tmp_path):
    save(tmp_path / "data", visual(), visual("w"))
    export_benchmark("vlkeb", tmp_path / "data", tmp_path / "out")
    file = tmp_path / "out/test.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([rows[0] | dict(alt=3), rows[1]]))
    told = "test.json record 1, field 'alt': input should be a valid string"
    asked = ["--format", "VLKEB multi-hop", "--data", file, "--images", tmp_path / "out/images", "--dry-run"]
    r = crane("evaluate", "--method", "FT-L", *asked)
    assert r.exit_code == 1 and f"{told}; mend that record, or skip it with --skip-bad" in r.stderr
    r = crane("evaluate", "--method", "FT-L", "--skip-bad", *asked)
    assert r.exit_code == 0 and r.stderr == f"skipped: {told}\n", r.stderr
    r = crane("benchmark", "card", file, "--format", "VLKEB multi-hop", "--skip-bad")
    assert f"* {told}" in r.stdout


def test_a_probe_is_asked_only_with_all_its_edits(data):
    assert "both" in {p.id for p in to_ask(data).probes}
    first = to_ask(data, limit=1)
    assert [e.id for e in first.edits] == ["v"] and {p.edit_id for p in first.probes} == {"v"}
    assert "both" not in {p.id for p in first.probes}
