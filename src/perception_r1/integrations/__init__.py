"""The reward in other trainers."""
