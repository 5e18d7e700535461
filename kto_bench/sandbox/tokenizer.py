"""The sandbox's tokenizer: one token for each word of its language, bytes for any other text.

Every string survives ``decode(encode(text))`` exactly. A word is a token together with the space before it, and a space
is put before the first word and taken off again by the decoder, so a word has the same token wherever it stands.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kto_bench.sandbox.language import MARKS, WORDS

PAD, BOS, EOS, USER, ASSISTANT = SPECIALS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '<|user|>' + message['content'] }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<|assistant|>' }}
        {%- generation %}{{- message['content'] + eos_token }}{%- endgeneration %}
    {%- else %}
        {{- raise_exception("the sandbox knows the roles user and assistant, not " + message['role']) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""

_WORD_SCORE = -1.0
_BYTE_SCORE = -100.0
"""Below any sequence of words, so bytes are used only where no word fits."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, always the same: five special tokens, 256 bytes and the words of the language, under 500 in all.

    A special token written out in a text is read as that token, as in any tokenizer of ``transformers``.
    """
    pieces = [(special, 0.0) for special in SPECIALS]
    pieces += [(f"<0x{byte:02X}>", _BYTE_SCORE) for byte in range(256)]
    pieces += [(word if word in MARKS else f" {word}", _WORD_SCORE) for word in WORDS]
    pieces += [(" ", 2 * _WORD_SCORE)]
    # Unigram insists on an id for the unknown; with all bytes in the vocabulary it is never used.
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Prepend(" ")
    # Setting "<" apart keeps the text "<0x41>" from being taken for the byte token of that name.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("<", "isolated"), pre_tokenizers.Split(" ", "merged_with_next")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    tokenizer.add_special_tokens([AddedToken(special, special=True, normalized=False) for special in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={"user_token": USER, "assistant_token": ASSISTANT},
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
