"""Rows, pictures, and readers of what people have."""
