"""A run stops when its rollouts are not its policy's.

GRPO's loss takes the answers for samples of the policy. Whoever generates them (vLLM, a server, transformers) may have
seen another prompt, other positions or other weights, and training then goes on as if nothing were wrong. What shows it
is the log-probability of the sampled tokens: the engine's against the policy's, before any update between them.

TRL logs that difference where vLLM generates. Where transformers does, `watch` measures it on the first rollouts, from
what both compute anyway.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from typing import Any

from transformers import TrainerCallback

from perception_r1.errors import ModelError

METRIC = "sampling/sampling_logp_difference/mean"
"""Mean over sampled tokens of |log-probability by the engine − by the policy|, in nats: TRL's name for it."""
WARN = 0.1
WINDOW = 5


class RolloutGuard(TrainerCallback):
    """Ends training with a ``ModelError`` when the mean difference of the last logged steps is over ``limit``.

    For a ``GRPOTrainer`` of your own: ``callbacks=[guard := RolloutGuard()]``, then ``guard.watch(trainer)``.

    Args:
        limit: in nats; None only measures.
        warn: from here on one line on standard error.
        window: logged steps that the mean is taken over; the first ones count as soon as they are there.
    """

    def __init__(self, limit: float | None = 0.5, *, warn: float = WARN, window: int = WINDOW) -> None:
        self.limit, self.warn = limit, warn
        self.values: deque[float] = deque(maxlen=window)
        self.warned = False
        self.first: _FirstRollouts | None = None

    def watch(self, trainer: Any) -> None:
        """Compare the first rollouts of transformers' ``generate``; nothing to do where TRL compares."""
        if not getattr(trainer, "use_vllm", False):
            self.first = _FirstRollouts(trainer)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Compare, and stop or warn."""
        if logs is None or "loss" not in logs:  # of an evaluation, or the summary at the end
            return
        if self.first is not None:  # in every process at the same step
            difference = self.first.difference()
            self.first = None
            if difference is not None:
                logs[METRIC] = difference
        value = logs.get(METRIC)
        if value is None or not math.isfinite(value):
            return
        self.values.append(value)
        mean = sum(self.values) / len(self.values)
        if self.limit is not None and mean > self.limit:
            raise ModelError(
                f"{_meaning(mean, len(self.values), state.global_step)} (max_rollout_difference: {self.limit:g})"
            )
        if mean > self.warn and not self.warned:
            self.warned = True
            if state.is_world_process_zero:
                print(f"warning: {_meaning(mean, len(self.values), state.global_step)}", file=sys.stderr)


def _meaning(mean: float, n: int, step: int) -> str:
    return (
        f"the rollouts are not the policy's: up to step {step} the engine that wrote them gave their tokens "
        f"log-probabilities {mean:.3g} nats away from the policy's own (mean of {n} logged step{'s' * (n > 1)}; 0.01 "
        "to 0.05 is rounding), so it read another prompt or image, or has other weights (docs/engines.md, 'Rollouts')"
    )


class _FirstRollouts:
    """Log-probabilities of the first rollouts, as they are sampled and as the loss sees them.

    One call of ``generate`` gets a logits processor that notes the log-probability of each sampled token; the first
    forward of the loss, whose output holds the policy's (TRL: ``log_probs``), is compared with it. Both are then as
    they were before.
    """

    def __init__(self, trainer: Any) -> None:
        self.accelerator, self.model = trainer.accelerator, trainer.model
        self.temperature = trainer.args.temperature
        self.rows: list[tuple[list[int], list[int], list[float]]] = []
        """Prompt, answer and its log-probabilities, a row each."""
        self.found: float | None = None
        self.model.generate = self._generate
        self.hook = self.model.register_forward_hook(self._compare, with_kwargs=True)

    def difference(self) -> float | None:
        """Mean over the processes in nats, None where nothing could be compared; every process calls it."""
        import torch

        self.hook.remove()
        vars(self.model).pop("generate", None)
        mine = torch.tensor([math.nan if self.found is None else self.found], device=self.accelerator.device)
        mean = self.accelerator.gather(mine).nanmean().item()
        return mean if math.isfinite(mean) else None

    def _generate(self, **inputs: Any) -> Any:
        import torch
        from transformers import LogitsProcessorList

        del self.model.generate  # the method of the class again
        noted: list[torch.Tensor] = []
        before: list[torch.Tensor] = []

        def note(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if before:
                noted.append(before.pop().gather(1, ids[:, -1:])[:, 0])
            before.append(torch.log_softmax(scores.float() / self.temperature, dim=-1))
            return scores

        sequences = self.model.generate(**inputs, logits_processor=LogitsProcessorList([note]))
        if before:
            noted.append(before.pop().gather(1, sequences[:, -1:])[:, 0])
        n_prompt = inputs["input_ids"].shape[1]
        logps = torch.stack(noted, dim=1).tolist()
        for ids, mask, row in zip(sequences.tolist(), inputs["attention_mask"].tolist(), logps, strict=True):
            prompt = [token for token, seen in zip(ids[:n_prompt], mask, strict=True) if seen]
            self.rows.append((prompt, ids[n_prompt:], row))
        return sequences

    def _compare(self, module: Any, args: Any, inputs: dict[str, Any], output: Any) -> None:
        import torch

        policy = getattr(output, "log_probs", None)
        if policy is None or not self.rows or not torch.is_grad_enabled() or self.found is not None:
            return
        differences: list[float] = []
        masks = inputs["attention_mask"].bool()
        for ids, mask, values in zip(inputs["input_ids"], masks, policy.detach().float(), strict=True):
            kept, places = ids[mask].tolist(), mask.nonzero()[:, 0].tolist()
            for prompt, answer, sampled in self.rows:
                n_answer = len(kept) - len(prompt)
                if 0 < n_answer <= len(answer) and kept == prompt + answer[:n_answer]:
                    own = values.tolist()  # of the token that follows each position
                    differences += [
                        abs(own[place - 1] - theirs)
                        for place, theirs in zip(places[len(prompt) :], sampled[:n_answer], strict=True)
                    ]
                    break
        if differences:
            self.found = sum(differences) / len(differences)
