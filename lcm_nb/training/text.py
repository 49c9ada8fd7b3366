"""The tokenizer and the two text encoders, of SDXL's shape."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

MAX_TOKENS = 40
WIDTH = 96  # of each text encoder, in heads of 32; the UNet sees both side by side
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(texts: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Learn CLIP's kind of byte-pair encoding from ``texts`` and save it to ``folder``."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix="", unk_token=END))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=2,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        special_tokens=[START, END],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    learnt = json.loads(bpe.to_str())["model"]
    vocabulary = learnt["vocab"]
    for letter in alphabet:  # any byte may end a word: nothing is ever unknown
        vocabulary.setdefault(letter + "</w>", len(vocabulary))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in learnt["merges"])])
    (folder / "merges.txt").write_text(merges + "\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Return untrained encoders.

    SDXL reads the last but one hidden layer of both and the pooled output of the second,
    so the first encoder's last layer has no effect and is frozen.
    """
    config = dict(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH * 4,
        num_attention_heads=3,
        projection_dim=WIDTH,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    first = CLIPTextModel(CLIPTextConfig(num_hidden_layers=2, **config))
    second = CLIPTextModelWithProjection(CLIPTextConfig(num_hidden_layers=3, **config))
    inner = getattr(first, "text_model", first)
    inner.encoder.layers[-1].requires_grad_(False)
    inner.final_layer_norm.requires_grad_(False)
    return first, second


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return token ids, (len(texts), 40) int64, padded and truncated as the pipelines do."""
    batch = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return batch.input_ids


def encode(first, second, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompt embeddings (B, 40, 192) and pooled embeddings (B, 96), as SDXL reads them."""
    one = first(ids, output_hidden_states=True)
    two = second(ids, output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), two.text_embeds
