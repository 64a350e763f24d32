"""The model of a check: whose tokenizer counts and whose chat template renders, where its files are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perception_r1.check.findings import Finding
from perception_r1.check.inputs import Inputs
from perception_r1.check.lengths import TokenCounter
from perception_r1.check.tokenizer import check_tokenizer
from perception_r1.errors import ModelError
from perception_r1.types import Sample


@dataclass(frozen=True)
class CheckedModel:
    """``name`` is None where an estimate stands in for the tokenizer."""

    name: str | None
    counter: TokenCounter
    findings: tuple[Finding, ...] = ()


def model_of(named: str | None, inputs: Inputs, samples: Sequence[Sample]) -> CheckedModel:
    """The model that the user named, else the recipe's if its files are here; nothing is fetched for the latter.

    Args:
        named: a folder or hub id; its small files are fetched if need be.
        inputs: task and recipe's model.
        samples: good rows; the first one's prompt is rendered.

    Raises:
        ModelError: the named model has no usable processor.
    """
    path = named or inputs.model
    if path is None:
        return CheckedModel(None, TokenCounter.estimate())
    from perception_r1.models.at_hand import config_at_hand, processor_at_hand
    from perception_r1.models.load import check_model_path
    from perception_r1.models.processors import load_processor

    try:
        check_model_path(path)
        processor = load_processor(path) if named else processor_at_hand(path)
        config = config_at_hand(path)
    except ModelError as error:
        if named:
            raise
        return CheckedModel(path, TokenCounter.estimate(), (Finding("tokenizer", str(error)),))
    if processor is None:
        return CheckedModel(None, TokenCounter.estimate())
    findings = check_tokenizer(inputs.task, samples[0], processor, config) if samples else ()
    return CheckedModel(path, TokenCounter.of_processor(processor, config), tuple(findings))
