"""The visual perception reward."""
