"""What a model does not read of a prompt: text encoders take so many tokens, and pipelines cut the rest off."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 60  # characters of what was not read that a note shows
# What diffusers and transformers print of it, once or at every run; the result's note says it.
_LINES = ("The following part of your input was truncated", "Token indices sequence length is longer than")


def unread(tokenizer: Any, arguments: Mapping[str, Any], *, negative_acts: bool = True) -> str:
    """Return in one sentence what of the prompts is cut off, "" for nothing, and nothing of one without effect."""
    names = {"prompt": "the prompt"} | ({"negative_prompt": "the negative prompt"} if negative_acts else {})
    told = (_unread(tokenizer, words, arguments.get(name) or "") for name, words in names.items())
    return "; ".join(filter(None, told))


def _unread(tokenizer: Any, what: str, text: str) -> str:
    most = tokenizer.model_max_length
    if len(text) + 2 <= most:  # a token is a character at least; the first and the last mark start and end
        return ""
    found = tokenizer(text, truncation=False, verbose=False, return_offsets_mapping=True)
    count = len(found["input_ids"])
    if count <= most:
        return ""
    rest = " ".join(text[found["offset_mapping"][most - 1][0] :].split())
    rest = rest if len(rest) <= LONGEST else f"{rest[: LONGEST - 3].rstrip()}..."
    return f"{what} has {count} tokens, and the model reads {most}; not read: {rest!r}"


@contextlib.contextmanager
def silenced(pipe: Any) -> Iterator[None]:
    """Keep off the screen, while a pipeline runs, what :func:`unread` says in one sentence."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_LINES)

    modules = {kind.__module__ for kind in type(pipe).__mro__ if kind.__module__.startswith("diffusers")}
    loggers = [logging.getLogger(name) for name in (*modules, "transformers.tokenization_utils_base")]
    for logger in loggers:
        logger.addFilter(is_news)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_news)
