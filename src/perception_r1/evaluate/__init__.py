"""Asking models and measuring their answers."""
