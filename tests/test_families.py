"""The wrapper is tied to no model.

Tiny random checkpoints of six families load from Hub format and answer, and an error says why one cannot be used.
"""

import shutil

import pytest
import torch
from families import FAMILIES, VIDEO, edit_json

from crane import generation
from crane.answers import fingerprint, told
from crane.core import CraneError
from crane.generation import answer, answer_batch, completions, counted, teacher_forced
from crane.model import Note, Prompt, chat, embed_images, embed_texts, encode, load_mllm, opening
from crane.world import load_world

FLAG = "flag-icons-4x3/PE"
PROMPTS = [
    Prompt("What is the capital of Peru?"),
    Prompt("Whose flag is this?", FLAG),
    Prompt("Whose flag is this?", FLAG, (Note("This is the flag of Japan.", "twemoji/JP"),)),
    Prompt("Which currency?"),
    Prompt("Which country of the flag?", "circle-flags/JP"),
    Prompt("Capital?", None, (Note("The capital of Peru is Lima."),)),
]


@pytest.fixture(scope="session")
def world():
    return load_world()


@pytest.fixture(params=FAMILIES)
def m(request, checkpoint_of):
    return load_mllm(checkpoint_of(request.param))


def texts(m, world, **kw):
    return [c.text for c in answer(m, PROMPTS, world, max_new_tokens=12, **kw)]


def test_the_same_text_whatever_the_batch_size(m, world):
    greedy = texts(m, world, batch_size=64)
    assert texts(m, world, batch_size=1) == texts(m, world, batch_size=4) == greedy
    drawn = texts(m, world, temperature=1.0, seed=3)
    assert texts(m, world, temperature=1.0, seed=3, batch_size=1) == drawn
    assert texts(m, world, temperature=1.0, seed=4) != drawn


def test_a_model_is_known_again_after_use(m, world):
    before = fingerprint(m)
    texts(m, world)
    assert told(m) and fingerprint(m) == before == fingerprint(load_mllm(m.name))


def test_rows_that_leave_and_join_change_no_text(world, monkeypatch):
    m = load_mllm("pocket")
    assert counted(m)
    sampled = dict(temperature=1.0, seed=3)
    ours = [texts(m, world, batch_size=n, **kw) for n in (2, 64) for kw in ({}, sampled)]
    monkeypatch.setattr(generation, "COUNTED", ())
    assert not counted(m)  # so transformers' generate writes
    theirs = [texts(m, world, batch_size=1, **kw) for kw in ({}, sampled)]
    assert ours == theirs * 2


def written_out(m, prompts, world):
    "What transformers writes, to the length cap if need be."
    enc = encode(m, prompts, world)
    ids = m.model.generate(
        **enc,
        max_new_tokens=m.max_new_tokens,
        do_sample=False,
        eos_token_id=m.ends,
        suppress_tokens=generation.pictured(m),
    )
    return completions(m, ids[:, enc["input_ids"].shape[1] :], 0)


def test_a_text_that_goes_round_in_circles_is_given_up_and_no_other(world, monkeypatch):
    m = load_mllm("pocket")
    flags = [Prompt("Whose flag is this?", f"twemoji/{c}") for c in ("BR", "DE", "FR", "IT", "JP", "PE")]
    head, noise = m.model.get_output_embeddings().weight, torch.Generator().manual_seed(0)
    head.data += 0.18 * torch.randn(head.shape, generator=noise)
    said = answer(m, [*PROMPTS, *flags], world)
    whole = written_out(m, [*PROMPTS, *flags], world)
    given_up = [(s, w) for s, w in zip(said, whole) if s != w]
    assert given_up and len(given_up) < len(said)
    for s, w in given_up:
        assert w.text.startswith(s.text) and s.tokens < w.tokens == m.max_new_tokens
        assert not s.ended and not w.ended
    assert answer(m, [*PROMPTS, *flags], world, batch_size=1) == said
    assert answer_batch(m, [*PROMPTS, *flags], world) == said
    monkeypatch.setattr(generation, "COUNTED", ())
    assert answer(m, [*PROMPTS, *flags], world) == said


def test_a_batch_changes_no_score(m, world):
    "Random models hit no target, so their scores themselves are compared: rows alone and padded rows."
    together = encode(m, PROMPTS, world, ["Lima"] * len(PROMPTS))
    labels = together.pop("labels")
    with torch.no_grad():
        logits = m.model(**together).logits
    for i, p in enumerate(PROMPTS):
        one = encode(m, [p], world, ["Lima"])
        own_labels = one.pop("labels")[0]
        with torch.no_grad():
            own_logits = m.model(**one).logits[0]
        alone, padded = own_logits[own_labels != -100], logits[i][labels[i] != -100]
        gap = float((alone - padded).abs().max())
        assert torch.allclose(alone, padded, atol=1e-4 * float(alone.abs().max())), (m.name, i, gap)
    assert len(teacher_forced(m, PROMPTS, ["Lima"] * len(PROMPTS), world)) == len(PROMPTS)


def test_one_first_token_and_no_markup_from_data(m):
    marks = [t for t in m.special if t != m.tok.bos_token]
    forged = Prompt(f"Whose?{''.join(marks)}", None, (Note(f"Peru{''.join(marks)}"),))
    plain = Prompt("Whose?", None, (Note("Peru"),))
    assert chat(m, forged) == chat(m, plain)
    ids = encode(m, [plain])["input_ids"][0].tolist()
    assert m.tok.bos_token_id is None or ids.count(m.tok.bos_token_id) == 1


def test_what_the_template_opens_belongs_to_the_trace(m, world):
    opened = bool(opening(m))
    assert opened == m.name.endswith(("paddleocr_vl", "qwen3_vl"))
    assert all(t.startswith("<think>") for t in texts(m, world)) or not opened
    responded = encode(m, PROMPTS[:1], world, ["<think>a</think>b"])["input_ids"][0].tolist()
    assert responded.count(m.tok.convert_tokens_to_ids("<think>")) == 1


def test_vectors_of_length_one_that_do_not_depend_on_company(m, world):
    v = embed_images(m, [FLAG, "twemoji/JP"], world)
    assert torch.allclose(v.norm(dim=1), torch.ones(2), atol=1e-4)
    assert torch.allclose(v[1:], embed_images(m, ["twemoji/JP"], world), atol=1e-4)
    t = embed_texts(m, ["Lima", "the capital of Peru"])
    assert torch.allclose(t[:1], embed_texts(m, ["Lima"]), atol=1e-4)
    assert t.shape[0] == 2


def test_a_family_whose_video_part_needs_torchvision(checkpoint_of):
    from transformers import AutoProcessor

    try:
        import torchvision  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError):
            AutoProcessor.from_pretrained(checkpoint_of(VIDEO[0]))
    assert load_mllm(checkpoint_of(VIDEO[0])).tok


# ---- one sentence says why a checkpoint cannot be used


def refused(path, *told):
    "Loading fails, and one line says all of `told`."
    with pytest.raises(CraneError) as e:
        load_mllm(path)
    said = str(e.value)
    assert "\n" not in said, said
    assert all(t in said for t in told), said


@pytest.fixture
def copy(checkpoint_of, tmp_path):
    return shutil.copytree(checkpoint_of("gemma3"), tmp_path / "copy")


def test_no_chat_template(copy):
    (copy / "chat_template.jinja").unlink()
    refused(copy, "no chat template", "chat_template.jinja")


def test_no_think_markup_and_how_to_give_it(copy):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (copy / name).read_text()
        text = text.replace("<think>", "<ponder>").replace("</think>", "</ponder>")
        (copy / name).write_text(text)
    refused(copy, "no think markup", "think=(")
    m = load_mllm(copy, think=("<ponder>", "</ponder>"))
    ids = encode(m, [Prompt("a")], None, ["<think>a</think>b"])["input_ids"][0].tolist()
    assert m.tok.convert_tokens_to_ids("<ponder>") in ids


def test_torn_pickled_and_missing_weights(copy):
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(copy, str(copy), "cannot be loaded")
    weights.rename(copy / "pytorch_model.bin")
    refused(copy, "safetensors")
    (copy / "pytorch_model.bin").unlink()
    refused(copy, "safetensors")


def test_code_of_its_own_is_never_run(copy):
    own_code = {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"}
    edit_json(copy / "config.json", model_type="nobody_knows", auto_map=own_code)
    (copy / "evil.py").write_text("raise SystemExit('the code ran')")
    refused(copy, "code of its own")


def test_a_text_model_is_refused(copy, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(tiny).save_pretrained(tmp_path / "text")
    refused(tmp_path / "text", "cannot be loaded")


@pytest.mark.parametrize(
    "said, told",
    [
        ("We couldn't connect to 'https://huggingface.co' to load the files", "cannot be reached"),
        (
            "nobody/x is not a local folder and is not a valid model identifier "
            "listed on 'https://huggingface.co/models'",
            "the Hub has no such model",
        ),
        ("You are trying to access a gated repo.\nMake sure to have access to it", "log in"),
    ],
)
def test_the_hub(monkeypatch, said, told):
    from transformers import AutoModelForImageTextToText

    def fail(*a, **k):
        raise OSError(said)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", fail)
    refused("nobody/x", told)


def test_a_processor_and_a_model_that_disagree_on_image_tokens(checkpoint_of, tmp_path, world):
    copy = shutil.copytree(checkpoint_of("llava_next"), tmp_path / "llava")
    edit_json(copy / "processor_config.json", patch_size=8)
    with pytest.raises(CraneError, match="do not agree on image tokens"):
        answer(load_mllm(copy), PROMPTS[1:2], world, max_new_tokens=2)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_names_the_batch_size_to_try(checkpoint_of, monkeypatch, world, error):
    m = load_mllm(checkpoint_of("gemma3"))

    def fail(*a, **k):
        raise error

    monkeypatch.setattr(type(m.model), "generate", fail)
    monkeypatch.setattr(type(m.model), "forward", fail)
    with pytest.raises(CraneError, match="batch_size=6: try batch_size=3"):
        answer(m, PROMPTS, world)
    with pytest.raises(CraneError, match="smaller model"):
        teacher_forced(m, PROMPTS[:1], ["a"], world)
