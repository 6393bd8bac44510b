"""Tiny random checkpoints of several families of multimodal models, in Hub format.

They test that the package is tied to none of them.
"""

import json
from itertools import product
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
WORDS = [
    "What is the capital of Peru? This is the flag of Japan. The note is about Peru, so it does not apply.",
    "user assistant Note: currency language neighbour of the country",
]
TEMPLATE = (
    "BOS{% for m in messages %}{{ 'START' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}IMAGE{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ 'END\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'STARTassistant\nOPEN' }}{% endif %}"
)


def template(image, bos="", start="<|im_start|>", end="<|im_end|>", opening=""):
    "A chat template; `opening` is what it writes for the assistant."
    t = TEMPLATE
    for k, v in dict(BOS=bos, START=start, END=end, OPEN=opening, IMAGE=image).items():
        t = t.replace(k, v.replace("\n", r"\n"))
    return t


def tokenizer(special, bos=None, eos="<|im_end|>", **named):
    "A byte-level BPE tokenizer; with `bos` it begins every text with that token, unless told to add no special tokens."
    from transformers import PreTrainedTokenizerFast

    first = [bos] if bos else []
    special = list(dict.fromkeys(["<pad>", eos, "<|im_start|>", *first, *special, *named.values()]))
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320 + len(special),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    t.train_from_iterator(WORDS, trainer)
    t.add_tokens([AddedToken(x, normalized=False) for x in TAGS])
    if bos:
        t.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, t.token_to_id(bos))])
    return PreTrainedTokenizerFast(
        tokenizer_object=t, pad_token="<pad>", eos_token=eos, bos_token=bos, extra_special_tokens=named
    )


def text_config(tok, **more):
    "Sizes and token ids that the language models share."
    ids = dict(pad_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id, bos_token_id=tok.bos_token_id)
    size = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=2048,
    )
    return dict(vocab_size=len(tok) + 64, initializer_range=0.3) | size | ids | more


VISION = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)


def save(folder, model, cfg, processor):
    "Random weights and the processor, as they would lie on the Hub."
    torch.manual_seed(0)
    m = model(cfg)
    tok = getattr(processor, "tokenizer", processor)
    for p in m.parameters():
        if p.dim() > 1 and not p.any():
            torch.nn.init.normal_(p, std=0.3)  # Gemma 3 starts blind
    m.generation_config.update(
        eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id, bos_token_id=tok.bos_token_id
    )
    m.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def llava_next(folder):
    "LLaVA-NeXT: tiles of unequal number, so five axes of pixels; the tokenizer alone adds a first token, no template."
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
    )

    tok = tokenizer([], bos="<s>", image_token="<image>")
    grid = [[32, 64], [64, 32], [64, 64]]
    side = dict(height=32, width=32)
    cfg = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=32, patch_size=16, projection_dim=32),
        text_config=LlamaConfig(**text_config(tok)),
        image_token_index=tok.image_token_id,
        image_grid_pinpoints=grid,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    ip = LlavaNextImageProcessorPil(size=dict(shortest_edge=32), crop_size=side, image_grid_pinpoints=grid)
    p = LlavaNextProcessor(
        ip,
        tok,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    return save(folder, LlavaNextForConditionalGeneration, cfg, p)


def idefics3(folder):
    "Idefics3: tiles again, a list of pictures for every row, and a language model by another name."
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
        LlamaConfig,
    )

    tiles = [f"<row_{row}_col_{col}>" for row, col in product((1, 2), repeat=2)]
    special = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles]
    tok = tokenizer(special, eos="<end_of_utterance>")
    cfg = Idefics3Config(
        vision_config=VISION | dict(image_size=32, patch_size=8),
        text_config=LlamaConfig(**text_config(tok)),
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tok.pad_token_id,
    )
    ip = Idefics3ImageProcessorPil(size=dict(longest_edge=64), max_image_size=dict(longest_edge=32))
    p = Idefics3Processor(ip, tok, image_seq_len=4, chat_template=template("<image>", end="<end_of_utterance>"))
    return save(folder, Idefics3ForConditionalGeneration, cfg, p)


def gemma3(folder):
    """Gemma 3: a list of pictures for every row, two-way attention within pictures, two end tokens.

    Template and tokenizer both write the first token.
    """
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    turn = dict(start="<start_of_turn>", end="<end_of_turn>")
    tok = tokenizer(
        turn.values(),
        bos="<bos>",
        eos="<eos>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    layers = ["sliding_attention", "full_attention"]
    text = text_config(tok, query_pre_attn_scalar=8, sliding_window=64, layer_types=layers)
    cfg = Gemma3Config(
        vision_config=SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False),
        mm_tokens_per_image=4,
        text_config=Gemma3TextConfig(**text),
        image_token_index=tok.image_token_id,
        boi_token_index=tok.boi_token_id,
        eoi_token_index=tok.eoi_token_id,
        tie_word_embeddings=False,
    )
    ip = Gemma3ImageProcessorPil(size=dict(height=32, width=32), image_seq_length=4)
    chat = template("<start_of_image>", bos="<bos>", **turn)
    save(folder, Gemma3ForConditionalGeneration, cfg, Gemma3Processor(ip, tok, image_seq_length=4, chat_template=chat))
    ends = [tok.eos_token_id, tok.convert_tokens_to_ids("<end_of_turn>")]
    return edit_json(Path(folder) / "generation_config.json", eos_token_id=ends)


def edit_json(path, **values):
    "Change values of a JSON file, made if missing; returns its folder."
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | values, indent=2))
    return path.parent


def aya_vision(folder):
    "Aya Vision: tiles in one flat batch, and a placeholder that differs from the token it becomes."
    from transformers import (
        AyaVisionConfig,
        AyaVisionForConditionalGeneration,
        AyaVisionProcessor,
        Cohere2Config,
        GotOcr2ImageProcessorPil,
        SiglipVisionConfig,
    )

    special = [
        "<image>",
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "TILE_GLOBAL",
        *(f"TILE_{i}" for i in range(1, 5)),
    ]
    tok = tokenizer(special, bos="<BOS_TOKEN>")
    cfg = AyaVisionConfig(
        vision_config=SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False),
        text_config=Cohere2Config(**text_config(tok)),
        image_token_index=tok.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
    )
    ip = GotOcr2ImageProcessorPil(size=dict(height=32, width=32), crop_to_patches=True, max_patches=4)
    p = AyaVisionProcessor(
        ip, tok, patch_size=8, img_size=32, downsample_factor=2, chat_template=template("<image>", bos="<BOS_TOKEN>")
    )
    return save(folder, AyaVisionForConditionalGeneration, cfg, p)


QWEN = dict(
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    vision_start_token="<|vision_start|>",
    vision_end_token="<|vision_end|>",
)
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


def paddleocr_vl(folder):
    """PaddleOCR-VL: built like Qwen-VL (patches in one row, positions on three axes), but without videos.

    Its template opens `<think>`.
    """
    from transformers import (
        PaddleOCRVLConfig,
        PaddleOCRVLForConditionalGeneration,
        PaddleOCRVLImageProcessorPil,
        PaddleOCRVLProcessor,
    )

    tok = tokenizer([], **QWEN)
    rope = dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 1, 1])
    cfg = PaddleOCRVLConfig(
        vision_config=VISION | dict(image_size=32, patch_size=8),
        text_config=text_config(tok, rope_parameters=rope),
        **token_ids(tok),
    )
    ip = PaddleOCRVLImageProcessorPil(patch_size=8, size=dict(shortest_edge=32 * 32, longest_edge=64 * 64))
    p = PaddleOCRVLProcessor(ip, tok, chat_template=template(PICTURE, opening="<think>\n"))
    return save(folder, PaddleOCRVLForConditionalGeneration, cfg, p)


def token_ids(tok):
    "Ids of the picture and video tokens, by the names that configurations use."
    return {f"{k}_id": tok.convert_tokens_to_ids(v) for k, v in QWEN.items()}


def qwen3_vl(folder):
    """Qwen3-VL Thinking, file by file as on the Hub: its processor has a video part, which needs torchvision.

    Its template opens `<think>`.
    """
    from transformers import Qwen2VLImageProcessorPil, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tok = tokenizer([], **QWEN)
    side = dict(shortest_edge=32 * 32, longest_edge=64 * 64)
    rope = dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 1, 1], mrope_interleaved=True)
    vision = dict(
        depth=2,
        hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        patch_size=8,
        out_hidden_size=32,
        num_position_embeddings=64,
        deepstack_visual_indexes=[0],
    )
    cfg = Qwen3VLConfig(vision_config=vision, text_config=text_config(tok, rope_parameters=rope), **token_ids(tok))
    Qwen2VLImageProcessorPil(patch_size=8, size=side).save_pretrained(folder)
    folder = save(folder, Qwen3VLForConditionalGeneration, cfg, tok)
    shared = dict(processor_class="Qwen3VLProcessor", size=side, patch_size=8, temporal_patch_size=2, merge_size=2)
    edit_json(folder / "preprocessor_config.json", image_processor_type="Qwen2VLImageProcessorFast", **shared)
    edit_json(folder / "video_preprocessor_config.json", video_processor_type="Qwen3VLVideoProcessor", **shared)
    (folder / "chat_template.jinja").write_text(template(PICTURE, opening="<think>\n"))
    return folder


FAMILIES = dict(
    llava_next=llava_next,
    idefics3=idefics3,
    gemma3=gemma3,
    aya_vision=aya_vision,
    paddleocr_vl=paddleocr_vl,
    qwen3_vl=qwen3_vl,
)
VIDEO = ["qwen3_vl"]  # AutoProcessor alone does not load these without torchvision
