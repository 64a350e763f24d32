"""``--model perception_r1`` of lmms-eval: our loading, image sizes and batched greedy generation under its tasks.

    python -m lmms_eval --model perception_r1 --model_args pretrained=DIR_OR_ID --tasks mmstar --batch_size 8

Arguments: ``pretrained``, ``family`` (default: from the configuration), ``device``, ``dtype``, ``max_pixels``,
``min_pixels`` (default: of the model's processor), ``system`` (a system turn), and ``reasoning=true``, which asks as
the visual perception reward's model was trained (its suffix) and gives tasks the final answer instead of the chain.
"""

from __future__ import annotations

import re
from typing import Any

from lmms_eval.api.model import lmms
from tqdm import tqdm

from perception_r1.data.images import resize_for_model, to_rgb
from perception_r1.evaluate.checkpoints import checkpoint_for
from perception_r1.evaluate.generate import TransformersGenerator
from perception_r1.families import get_family
from perception_r1.integrations.lmms_eval.tasks import SIZED
from perception_r1.models.limits import stored_limits
from perception_r1.models.load import detect_family, load_model
from perception_r1.reasoning.equivalence import unboxed
from perception_r1.tasks.geometry import SUFFIX


class PerceptionR1(lmms):  # type: ignore[misc]
    """A model of ours under lmms-eval; see the module."""

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        family: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 8,
        max_pixels: int | str | None = None,
        min_pixels: int | str | None = None,
        max_new_tokens: int | str | None = None,
        system: str | None = None,
        reasoning: bool | str = False,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ValueError(f"--model_args: perception_r1 takes no {', '.join(unknown)}")
        import torch

        known = checkpoint_for(None, pretrained)
        self.family = get_family(family) if family else get_family(known.family) if known else detect_family(pretrained)
        own = (known.min_pixels, known.max_pixels) if known else stored_limits(pretrained) or (None, None)
        self.limits = {
            "min_pixels": int(min_pixels) if min_pixels else own[0],
            "max_pixels": int(max_pixels) if max_pixels else own[1],
        }
        self.limit = int(max_new_tokens) if max_new_tokens else None
        self.system = system
        self.reasoning = str(reasoning).lower() in ("true", "1", "yes")
        self.batch = int(batch_size)
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model, processor = load_model(pretrained, dtype=dtype, device=where)
        self.generator = TransformersGenerator(model, processor, self.family, share=True)

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Answers in the order of the requests; pictures of one size are answered together."""
        asked = []
        for number, request in enumerate(requests):
            context, arguments, doc_to_visual, doc_id, task, split = request.args
            pictures = [picture for picture in doc_to_visual(self.task_dict[task][split][doc_id]) or () if picture]
            images = [self._resized(picture) for picture in pictures]
            asked.append((number, context, images, dict(arguments)))
        answers = [""] * len(asked)
        order = sorted(asked, key=lambda item: (str(sorted(item[3].items(), key=str)), -_pixels(item[2]), item[0]))
        for start in tqdm(range(0, len(order), self.batch), desc="perception_r1", disable=self.rank != 0):
            part = order[start : start + self.batch]
            # One group of settings a batch: they differ between tasks.
            for settings in {str(item[3]) for item in part}:
                group = [item for item in part if str(item[3]) == settings]
                texts = self._answer([item[1] for item in group], [item[2] for item in group], group[0][3])
                for (number, context, _, arguments), text in zip(group, texts, strict=True):
                    answers[number] = text
                    self.cache_hook.add_partial("generate_until", (context, arguments), text)
        return answers

    def _resized(self, picture: Any) -> Any:
        """At the size that the model sees by its own limits; a picture of our tasks comes at its size."""
        rgb = to_rgb(picture)
        return rgb if picture.info.get(SIZED) else resize_for_model(rgb, self.family, **self.limits)

    def _answer(self, contexts: list[str], images: list[list[Any]], arguments: dict[str, Any]) -> list[str]:
        self.generator.options["max_new_tokens"] = self.limit or int(arguments.get("max_new_tokens") or 1024)
        completions = self.generator.complete(
            [self._messages(context, len(group)) for context, group in zip(contexts, images, strict=True)], images
        )
        stops = arguments.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        texts = []
        for completion in completions:
            text = final_answer(completion.text) if self.reasoning else completion.text
            # "\n\n" is a leftover of text-only tasks that would cut an answer of several paragraphs.
            for stop in (stop for stop in stops if stop.strip()):
                text = text.split(stop)[0]
            texts.append(text)
        return texts

    def _messages(self, context: str, n_images: int) -> list[dict[str, Any]]:
        text = f"{context} {SUFFIX}" if self.reasoning else context
        said = {"type": "text", "text": text.replace("<image>", "")}
        content = [*({"type": "image"} for _ in range(n_images)), said]
        head = [] if self.system is None else [{"role": "system", "content": [{"type": "text", "text": self.system}]}]
        return [*head, {"role": "user", "content": content}]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Refuse tasks that compare likelihoods."""
        raise NotImplementedError("perception_r1 answers in words; choose a task that generates")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Refuse tasks of several rounds."""
        raise NotImplementedError("perception_r1 answers one turn; choose a task of single turns")


def final_answer(text: str) -> str:
    """What is boxed in the answer block; the block itself, or all of the text, where nothing is."""
    block = re.search(r"<answer>(.*?)(?:</answer>|$)", text, re.DOTALL)
    return unboxed(block.group(1).strip() if block else text.strip())


def _pixels(images: list[Any]) -> int:
    return sum(image.width * image.height for image in images)
