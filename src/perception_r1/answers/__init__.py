"""From a model's text to objects, and back."""
