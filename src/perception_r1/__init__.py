"""perception-r1: reinforcement learning that teaches vision-language models to see."""
