"""Models and processors, published and tiny."""
