"""A recipe written out for another engine: its data, its configuration, and the reward it loads.

`export` is what ``pr1 export`` calls. Every engine gets the same prompts and images of the same size, and its reward is
`task.score` by way of `perception_r1.integrations`.
"""

from __future__ import annotations

from perception_r1.export.run import ENGINES, Exported, export

__all__ = ["ENGINES", "Exported", "export"]
