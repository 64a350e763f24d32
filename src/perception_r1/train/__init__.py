"""GRPO and SFT on TRL."""
