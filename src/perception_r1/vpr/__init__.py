"""The data pipeline of the visual perception reward: distill, filter, annotate, judge, and the perception study."""
