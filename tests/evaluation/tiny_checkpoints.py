"""Tiny checkpoints with a tokenizer built here; nothing is downloaded."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = ["france", "italy", "spain", "capital", "of", "paris", "rome", "madrid", "yes", "no", "is", "the", *"abcdefgh"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LAST_WORD_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def build_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """One token per word; unknown words are <unk>. It has a BOS, and adds none by itself."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=chat_template,
    )


def build_model(family: str, seed: int = 0, positions: int = 64) -> PreTrainedModel:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(SPECIAL) + 1 + len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": positions,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes))
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes))


def bigram_model(
    tokenizer: PreTrainedTokenizerFast, follows: dict[str, str], otherwise: str = "</s>"
) -> PreTrainedModel:
    """A Llama whose next token depends on the last token alone: after a key of ``follows`` comes its value."""
    size = len(tokenizer)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=64,
        )
    )
    assert size <= 32
    with torch.no_grad():
        for layer in model.model.layers:  # the residual stream carries the embedding through unchanged
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, 32))
        model.lm_head.weight.zero_()
        for token in tokenizer.get_vocab():
            after = follows.get(token, otherwise)
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(after), tokenizer.convert_tokens_to_ids(token)] = 2.0
    return model
