"""The recipe: its schema, and what is built from it."""
