"""``python -m perception_r1`` is ``pr1``."""

from __future__ import annotations

from perception_r1.cli import main

if __name__ == "__main__":
    main()
