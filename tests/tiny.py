"""Small checkpoints and a tokenizer, made on the spot."""

from __future__ import annotations

from typing import Any

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 48, "num_key_value_heads": 2},
    "gpt_neox": {"intermediate_size": 48},
    "mistral": {"intermediate_size": 48, "num_key_value_heads": 2, "sliding_window": 64},
    "qwen2": {"intermediate_size": 48, "num_key_value_heads": 2},
    "gemma2": {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 64},
}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def tiny_config(architecture: str, **fields: Any) -> Any:
    """A configuration of two layers and width 32 for 256 positions."""
    from transformers import AutoConfig

    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return AutoConfig.for_model(architecture, **{**common, **special, **fields})


def tiny_model(architecture: str = "llama", vocabulary: int = 64) -> Any:
    """A randomly initialised model of two layers and width 32; the same on every call."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = tiny_config(architecture, vocab_size=vocabulary, **ARCHITECTURES[architecture])
    return AutoModelForCausalLM.from_config(config).eval()


def tiny_tokenizer() -> Any:
    """A word-level tokenizer of 64 words w0 to w56 with BOS, EOS, PAD and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>", "<system>", *[f"w{i}" for i in range(57)]]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(words[:7])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.chat_template = TEMPLATE
    return fast
